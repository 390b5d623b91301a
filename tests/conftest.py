"""What all tests start from, and which only repeat at full size what another test proves.

`make test` leaves the latter out; `make test-all` runs them, too.
"""

import functools
import logging
import re
import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and in the processes that tests interrupt

try:
    from mmengine.config import utils
    from mmengine.logging import MMLogger
except ImportError:  # the core's tests do without
    MMLogger = None
else:  # mmengine parses a hundred index files of mmdet again for each `_base_` of a config
    utils.load = functools.cache(utils.load)


@pytest.fixture(autouse=True)
def no_closed_logs():
    """Leave the next test no log file that is closed, as it is after another library's ``dictConfig``.

    mmengine writes into the stream of every file that its loggers have.
    """
    yield
    for logger in MMLogger._instance_dict.values() if MMLogger else ():
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler) and handler.stream is None:
                logger.removeHandler(handler)


# part of a test's id (a regular expression) -> what proves the same in `make test`
SLOW = {
    r"test_demo\.py::test_a_few_steps_of_the_whole_demo": "`make demo`, and test_commands",
    r"test_slurm\.py::test_two_tasks_train_together": "test_two_ranks; the other tests of slurm.sh",
    r"test_commands\.py::.*\[seg\]": "the same on a detector",
    r"test_commands\.py::test_(errors|resume).*\[det\]": "test_errors; test_loops",
    r"test_whole_models\.py::test_denominators": "the golden values of the models themselves",
    r"test_repair\.py::test_(evaluation_leaves.*ade20k|a_set_without)": "the same in COCO's format",
    r"test_soak\.py::": "test_loops, which stops runs at chosen places",
    r"test_(two_ranks|fsdp)\.py::": "test_lean_block, with two processes; whole models by test-all",
    r"test_loops\.py::test_a_run_by_epochs_resumes_anywhere\[place[023]": "the other place",
    r"test_loops\.py::test_accumulated_batches.*\[epoch\]": "the same by iterations",
    r"test_resume\.py::test_(another_b|a_schedule_|other_par|rate_|frozen)": "a longer run, and plain values",
    r"test_resume\.py::test_an_average_ends": "the restored weights, on plain tensors",
    r"test_loops\.py::test_what_a_kill_left.*\[epoch": "the same for the best checkpoint",
    r"test_runner\.py::.*\[coco": "the same on a segmentor",
    r"test_whole_models\.py::.*(cascade/convnext_t|upernet/convnext_t)": "Mask R-CNN T, value by value",
    r"test_isotropic\.py::.*\[768-": "the same at the other widths",
    r"test_first_weights\.py::test_first_weights_of_a_recipe\[(?!.*convnext_t)": "the same at size T",
    r"test_segmentation_metric\.py::test_the_command_line_prints": "the metric, against a confusion matrix",
    r"recipes/test_roadmap\.py::test_a_training_step\[(?!resnet50|layer_norm)": "two of the steps",
    r"test_family\.py::test_a_(detector|segmentor)_trains.*isotropic": "the same with ConvNeXt V2",
    r"test_repair\.py::.*\[(coco|ade20k)-2\]": "the same without workers",
    r"test_accuracy\.py::test_all_continues": "test_the_command_records_once_continues_and_reports",
    r"_steps\.py::.*(resnet50|swin)": "the same with ConvNeXt",
    r"test_coco_steps\.py::test_a_step_on_real_images": "the same on noise",
    r"test_convnext\.py::.*reference\[(xlarge|large|base|small)": "size T",
    r"test_roadmap\.py::test_command_line": "test_measured_rows_survive_json_and_are_drawn",
    r"test_dataset_classes\.py::test_label_maps\[(?!Cityscapes)": "the same with Cityscapes' suffixes",
    r"test_dataset_classes\.py::test_boxes\[(?!VOC)": "the same with Pascal VOC's files",
    r"test_dataset_classes\.py::test_(wrappers|a_test_prints|a_decathlon)": "the classes without a wrapper",
    r"test_dataset_classes\.py::test_other_tasks.*\[(?!ODVG|CocoPanoptic)": "two of the classes",
    r"test_custom_classes\.py::test_the_command_lines": "the edits of the config, one by one",
    r"test_tta\.py::test_the_command_line": "the merging, against oracles",
    r"test_reproduce\.py::test_whole_val_sets": "test_reproduction: the verdicts as a table",
    r"test_schedules\.py::test_the_simulation.*\[False\]": "the same with accumulation",
    r"test_fuzz\.py::test_damaged_files.*\[(legacy|safetensors)\]": "torch's format",
    r"test_config_fuzz\.py::test_mistakes_in.*mask_rcnn": "the same with a segmentor",
    r"test_config_fuzz\.py::test_many_mistakes": "a few mistakes; more: tools/dev/fuzz_configs.py",
    r"test_lazy\.py::test_a_run_can_be_built.*\[coco\]": "the same on a segmentor",
    r"test_exchange\.py::test_(the_new_one.*\[onedl|both_of)": "mmcv-lite by mmcv",
    r"test_wheel\.py::test_(a_kill.*\[(2|15)\]|a_second_call)": "one call, and SIGKILL",
    r"test_kinds\.py::test_it_trains.*\[(text|video|tracker|semi|dist)": "test_forms, value by value",
    r"test_kinds\.py::test_it_trains.*\[one": "test_its_file; Cascade Mask R-CNN trains in test_coco_steps",
    r"test_kinds\.py::test_it_trains.*\[(stride|several|point)": "test_forms, and C4, RFP and branches",
    r"test_kinds\.py::test_its_file.*\[(stride|dist|tracker)": "the same with C4, RFP and a student",
    r"test_zoo_sample\.py::test_a_sample": "a fixed sample, in test_verdict",
    r"test_survey\.py::test_(a_process_judges|processes_judge)": "the judge itself, in test_verdict",
    r"test_survey_key\.py::test_the_walk_finds_all.*pspnet": "the same on a detector",
    r"test_verdict\.py::test_a_sample_of_the_zoo": "test_kinds, with a config per kind",
    r"test_survey_key\.py::test_the_walk_finds_all.*\[mmseg": "the same with a detector",
    r"test_complexity\.py::test_table_[34]\[(?!.*convnext_t)": "the same at size T",
    r"test_reproduce\.py::test_bad_checkpoints": "the errors of one file each, in test_read and test_load",
    r"test_family\.py::test_a_segmentor_trains": "the same in a detector",
    r"test_repair\.py::test_training_continues.*\[ade20k": "the same in COCO's format",
    r"test_commands\.py::test_predicting_on_own_images": "`make demo`, and the predictor's own tests",
    r"test_run\.py::test_largest_shape_of_published.*\[(?!cascade/convnext_b_3x-1)": "another scale",
    r"test_convert\.py::test_a_refusal.*\[arguments[123]": "the first refusal",
    r"test_speed_command\.py::test_whole_models.*upernet": "the same with a detector",
    r"test_reproduce\.py::test_released_models_load": "test_whole_models, value by value",
    r"test_speed_command\.py::test_backbones_side": "test_timing, and whole models",
    r"test_convert\.py::test_there_and_back_through": "the names, without files",
    r"test_resume\.py::test_other_steps_per_epoch": "test_schedules, with plain values",
    r"test_exchange\.py::test_operators_that_do_not": "the return to the old one, after a wheel that fails",
    r"export/test_kinds\.py::test_every_recipe_can\[(?!.*(convnext_t|v2_atto|swin_t))": "sizes T and atto",
    r"export/test_write\.py::test_(what_a_whole|it_computes|.*_of_a_whole|one_size)": "a small network",
    r"test_speed_command\.py::test_exported_models": "`make deploy`, which times them",
    r"export/test_operators\.py::test_pooling_in_onnx": "NMS in ONNX",
    r"export/test_write\.py::test_half_precision": "the same in float32",
    r"export/test_traceable\.py": "`--check`, at each export of a Swin",
    r"export/test_masks\.py::test_masks_are_mmdets\[hw0": "the same on smaller pictures",
    r"test_site\.py::test_(no_message|the_page_has|a_new_room)": "`make docs`, which writes the page",
    r"tools/test_export\.py::test_(the_command_ch|predictions|figures)": "tests/mm/export and tests/export",
    r"test_compile\.py::test_the_default_backend": "the same with a backend that compiles nothing",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of the table; a row that matches none is an error where everything is collected."""
    unused = dict.fromkeys(SLOW)
    for item in items:
        for pattern in SLOW:
            if re.search(pattern, item.nodeid):
                item.add_marker("slow")
                unused.pop(pattern, None)
    folders = {item.path.parent.name for item in items}
    if unused and {"engine", "recipes", "tools", "checkpoints"} <= folders:
        raise pytest.UsageError(f"tests/conftest.py: no test matches {list(unused)}")
