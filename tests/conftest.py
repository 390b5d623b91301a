"""Which tests only repeat at full size or length what another test proves: `make test-all` runs them, too."""

import re

import pytest

# part of a test's id (a regular expression) -> what proves the same in `make test`
SLOW = {
    r"test_demo\.py::test_a_few_steps_of_the_whole_demo": "`make demo`, and test_commands",
    r"test_slurm\.py::test_two_tasks_train_together": "test_two_ranks; the other tests of slurm.sh",
    r"test_commands\.py::(?!test_training_says).*\[seg\]": "the same on a detector",
    r"test_soak\.py::test_a_(run_killed|full_disk)": "test_loops, which stops runs at chosen places",
    r"test_fsdp\.py::test_(a_killed_rank|command_resumes)": "test_two_ranks, with whole models",
    r"test_loops\.py::test_a_run_by_epochs_resumes_anywhere\[place[02]": "the other two places",
    r"test_loops\.py::test_accumulated_batches.*\[epoch\]": "the same by iterations",
    r"test_loops\.py::test_what_a_kill_left.*\[epoch": "the same for the best checkpoint",
    r"test_runner\.py::test_compiled_testing.*\[coco": "the same on a segmentor",
    r"test_whole_models\.py::.*cascade/convnext_t_3x": "Mask R-CNN T and UperNet T; test_released",
    r"test_coco_steps\.py::test_a_step_on_real_images": "the same on noise",
    r"test_convnext\.py::.*reference\[(xlarge|large)": "the smaller sizes",
    r"test_roadmap\.py::test_command_line": "test_measured_rows_survive_json_and_are_drawn",
    r"test_custom_classes\.py::test_the_command_lines": "the edits of the config, one by one",
    r"test_tta\.py::test_the_command_line\[det\]": "the same on a segmentor",
    r"test_reproduce\.py::test_whole_val_sets": "test_reproduction: the verdicts as a table",
    r"test_schedules\.py::test_the_simulation.*\[False\]": "the same with accumulation",
    r"test_fuzz\.py::test_damaged_files.*\[legacy\]": "the other formats",
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
