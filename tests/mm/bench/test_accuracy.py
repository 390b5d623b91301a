"""The benchmark end to end on synthetic shapes: figures against mmdet's and mmseg's own, records, report."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from pycocotools import mask as rle
from pycocotools.coco import COCO

import convnext_dense.mm  # noqa: F401
from convnext_dense.commands import benchmark
from convnext_dense.commands import test as test_command
from convnext_dense.data.synthetic import make_shapes
from convnext_dense.errors import UserError
from convnext_dense.evaluation.folder import Evaluation
from convnext_dense.mm.apis import test as testing
from convnext_dense.mm.apis.test import Job, identity, run_protocol
from convnext_dense.mm.bench import report, rows
from convnext_dense.mm.config.edit import set_backends, set_plain_batch_norm, set_pretrained
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.paths import set_data_root
from convnext_dense.mm.engine import runner as runners
from convnext_dense.mm.engine.options import Options
from convnext_dense.recipes import config_path
from convnext_dense.results import paper
from convnext_dense.results.records import find_record, read_records
from convnext_dense.toolboxes import toolbox_versions

DETECTOR, SEGMENTOR = "demo/mask_rcnn_shapes", "demo/upernet_shapes"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Folder of synthetic data in both layouts."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, train=2, val=4, size=64)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Recipe -> a checkpoint with random weights."""
    files = {}
    for recipe in (DETECTOR, SEGMENTOR):
        cfg = load_config(recipe)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        files[recipe] = tmp_path_factory.mktemp("weights") / "iter_2.pth"
        torch.save(dict(state_dict=model.state_dict(), meta=dict(iter=2, seed=3)), files[recipe])
    return files


@pytest.fixture
def tool(monkeypatch, tmp_path, capsys):
    """Runs ``benchmark`` with the given arguments in this process, from an empty folder; its output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, status: int = 0) -> str:
        ended = 0
        try:
            benchmark.main(list(map(str, arguments)))
        except SystemExit as error:
            ended = error.code or 0
        said = capsys.readouterr()
        assert ended == status, said.out + said.err
        return said.out + said.err

    return run


def moved_truth(truth: COCO, image_id: int) -> list[dict]:
    """The image's objects, moved a little, with scores; every fourth one with a wrong label."""
    rng = np.random.default_rng(image_id)
    names = [category["id"] for category in truth.dataset["categories"]]
    found = []
    for number, annotation in enumerate(truth.imgToAnns[image_id]):
        x, y, w, h = annotation["bbox"]
        shift = rng.integers(-3, 4, 2)
        mask = np.roll(truth.annToMask(annotation), shift, (0, 1))
        label = names.index(annotation["category_id"])
        box = [x + shift[1], y + shift[0], x + w + shift[1], y + h + shift[0]]
        found.append(dict(box=box, mask=mask, label=(label + (number % 4 == 3)) % 3, score=rng.random()))
    return found


def test_a_detector_is_judged_as_mmdet_judges_it(shapes, weights, tmp_path, monkeypatch):
    """The model's detections are replaced by ones that score well, so that the figures mean something."""
    truth = COCO(str(shapes / "coco/annotations/instances_val2017.json"))

    def predict(data):
        samples = data["data_samples"]
        for sample in samples:
            found = moved_truth(truth, sample.img_id)
            instances = sample.pred_instances = sample.gt_instances.__class__()
            instances.bboxes = torch.tensor(np.array([f["box"] for f in found]), dtype=torch.float32)
            instances.scores = torch.tensor([f["score"] for f in found], dtype=torch.float32)
            instances.labels = torch.tensor([f["label"] for f in found])
            instances.masks = torch.tensor(np.array([f["mask"] for f in found])).bool()
        return samples

    def runner_of(*arguments):
        runner = runners.testing_runner(*arguments)
        runner.model.test_step = predict
        return runner

    monkeypatch.setattr(testing, "testing_runner", runner_of)
    options = Options(work_dir=str(tmp_path / "plain"), data_root=str(shapes / "coco"))
    expected = runner_of(DETECTOR, str(weights[DETECTOR]), options).test()
    job = Job(
        DETECTOR, weights[DETECTOR], Options(work_dir=str(tmp_path / "w"), data_root=str(shapes / "coco"))
    )
    evaluation = run_protocol(job)

    metrics = evaluation.record["metrics"]
    assert 20 < metrics["box AP"] < 95
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        for theirs, ours in (("mAP", "AP"), ("mAP_50", "AP50"), ("mAP_75", "AP75"), ("mAP_s", "AP small")):
            assert expected[f"coco/{kind}_{theirs}"] == round(metrics[f"{name} {ours}"] / 100, 3)
    assert Evaluation.load(evaluation.folder) == evaluation
    mean = np.mean([figures["mask AP"] for figures in evaluation.per_class.values()])
    assert mean == pytest.approx(metrics["mask AP"], abs=1e-3)
    assert evaluation.record["dataset"]["full"] is False
    assert evaluation.record["dataset"]["images"] == 4
    first = evaluation.detections()[0]
    assert rle.decode(first["segmentation"]).shape == (64, 64)
    if "faster-coco-eval" in testing.load_evaluator.__globals__["available_evaluators"]():
        again = run_protocol(Job(job.source, job.checkpoint, job.options, evaluator="faster-coco-eval"))
        assert again.record["metrics"] == metrics


@pytest.mark.parametrize("tta", [False, True])
def test_a_segmentor_is_judged_as_mmseg_judges_it(shapes, weights, tmp_path, monkeypatch, tta):
    said = {}

    def runner_of(*arguments):
        runner = runners.testing_runner(*arguments)
        test = runner.test
        runner.test = lambda: said.update(test()) or said
        return runner

    monkeypatch.setattr(testing, "testing_runner", runner_of)
    options = Options(work_dir=str(tmp_path), data_root=str(shapes / "ade20k"))
    evaluation = run_protocol(Job(SEGMENTOR, weights[SEGMENTOR], options, tta))
    metrics = evaluation.record["metrics"]
    assert 0 < metrics["mIoU"] < 100
    for name in ("mIoU", "aAcc", "mAcc"):
        assert said[name] == pytest.approx(metrics[name], abs=0.0051)
    assert evaluation.record["tta"] is tta and evaluation.folder.name == (
        "evaluation_tta" if tta else "evaluation"
    )
    assert len(evaluation.scenes) == 4
    assert all((evaluation.folder / scene["prediction"]).is_file() for scene in evaluation.scenes)


def test_the_command_records_once_continues_and_reports(shapes, weights, tmp_path, tool):
    options = ("--data-root", shapes / "ade20k", "--checkpoint", weights[SEGMENTOR], "--work-dir", "w")
    said = tool("accuracy", SEGMENTOR, *options)
    assert "not ADE20K val: 4 images, 4 classes" in said and "nothing is compared with the paper" in said
    (record,) = read_records("results", "accuracy")
    assert record["config"] == SEGMENTOR and record["row"] is None
    assert {"python", "torch", *toolbox_versions()} <= set(record["versions"])
    assert record["versions"]["mmcv operators"] in ("compiled", "not compiled")
    assert len(record["config_hash"]) == len(record["checkpoint"]["hash"]) == 16
    assert record["complexity"]["params"] == sum(
        tensor.numel() for name, tensor in torch.load(weights[SEGMENTOR])["state_dict"].items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )  # fmt: skip
    assert str(shapes) not in json.dumps(record), "a record holds no path of this machine"

    assert "recorded on" in tool("accuracy", SEGMENTOR, *options)
    assert len(read_records("results")) == 1
    other = torch.load(weights[SEGMENTOR])
    other["state_dict"]["decode_head.conv_seg.bias"] += 1
    torch.save(other, "other.pth")
    job = Job(SEGMENTOR, weights[SEGMENTOR], Options(data_root=str(shapes / "ade20k")))
    assert find_record([record], identity(job)) is record
    for change in (
        dict(checkpoint=tmp_path / "other.pth"),
        dict(tta=True),
        dict(options=replace(job.options, overrides={"model.test_cfg.mode": "slide"})),
        dict(options=replace(job.options, overrides={"test_dataloader.dataset.indices": 2})),
    ):
        assert find_record([record], identity(replace(job, **change))) is None, change


def test_a_run_becomes_a_page(shapes, weights, tmp_path, tool, monkeypatch):
    run = tmp_path / "run"
    (run / "20240101_000000" / "vis_data").mkdir(parents=True)
    cfg = load_config(SEGMENTOR)
    set_data_root(cfg, str(shapes / "ade20k"))
    cfg.dump(run / "upernet_shapes.py")
    (run / "20240101_000000/vis_data/scalars.json").write_text('{"loss": 2.0, "lr": 0.1, "step": 20}\n')
    assert "No checkpoint" in page_of(tool, run)
    shutil.copy(weights[SEGMENTOR], run / "iter_2.pth")
    assert "not tested (--skip-test)" in page_of(tool, run, "--skip-test")
    text = page_of(tool, run)
    assert "iter_2.pth on ade20k (not ADE20K val: 4 images" in text
    assert text.count("<figure><img") == 4  # two best, two worst
    assert "AdamW" in text and "600 iterations" in text and "circle" in text
    monkeypatch.setattr(report, "run_protocol", lambda job: pytest.fail("the test lies there already"))
    assert page_of(tool, run) == text


def test_the_page_and_the_table_use_the_figures_of_a_plain_test(shapes, weights, tmp_path, tool, monkeypatch):
    """The test names the recipe, the page its run: both measure the same."""
    work = ("--work-dir", "run", "--data-root", shapes / "ade20k")
    cfg = load_config(SEGMENTOR)
    set_data_root(cfg, str(shapes / "ade20k"))
    (tmp_path / "run").mkdir()
    cfg.dump(tmp_path / "run/upernet_shapes.py")
    written = (tmp_path / "run/upernet_shapes.py").read_bytes()
    shutil.copy(weights[SEGMENTOR], "run/iter_2.pth")
    test_command.main(list(map(str, (SEGMENTOR, "run/iter_2.pth", *work))))
    assert (tmp_path / "run/upernet_shapes.py").read_bytes() == written, "training's config stays"
    (record,) = read_records("results", "accuracy")
    monkeypatch.setattr(report, "run_protocol", lambda job: pytest.fail("tools/test.py made the figures"))
    assert f">{record['metrics']['mIoU']:.2f}<" in page_of(tool, tmp_path / "run")
    again = tool("accuracy", SEGMENTOR, "--checkpoint", "run/iter_2.pth", *work)
    assert "recorded on" in again


def test_records_that_cannot_be_written_end_before_the_test(shapes, weights, tmp_path, tool):
    (tmp_path / "results").write_text("a file")
    options = ("--data-root", shapes / "ade20k", "--checkpoint", weights[SEGMENTOR], "--work-dir", "w")
    for folder in ("results", "results/below"):
        said = tool("accuracy", SEGMENTOR, *options, "--results", folder, status=2)
        assert f"error: --results {folder}: cannot be made" in said and "Iter(test)" not in said


def test_a_test_with_another_evaluator_has_its_figures_and_says_why_it_is_not_recorded(
    shapes, weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        f"_base_ = {str(config_path(SEGMENTOR))!r}\n"
        "test_evaluator = [dict(type='IoUMetric', iou_metrics=['mFscore'])]\n"
    )
    command = ["own.py", weights[SEGMENTOR], "--data-root", shapes / "ade20k", "--out", "m.json"]
    test_command.main(list(map(str, command)))
    said = capsys.readouterr().out
    assert "not recorded: test_evaluator is a list" in said and "mFscore" in said
    assert "mFscore" in json.loads((tmp_path / "m.json").read_text())
    assert not (tmp_path / "results").exists()


def page_of(tool, run, *options: str) -> str:
    tool("report", run, "-o", "report.html", *options)
    with open("report.html") as file:
        return file.read()


def test_a_folder_without_a_run_and_a_wrong_row_are_one_line(tmp_path, tool):
    assert "no folder" in tool("report", tmp_path / "absent", status=2)
    (tmp_path / "empty").mkdir()
    assert "has no config" in tool("report", tmp_path / "empty", status=2)
    assert "give a row or a config, or --all" in tool("accuracy", status=2)
    assert "no weights were released" in tool("accuracy", "cascade/resnet50_3x", status=2)
    said = tool("accuracy", "mask_rcnn/convnext_t_3x", "--checkpoint", "absent.pth", status=2)
    assert said == "error: no checkpoint at absent.pth\n"


# ---- what is on disk


def test_all_names_what_is_missing_for_each_row(tmp_path, tool, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    chosen = ("cascade/convnext_b_3x", "imagenet/convnext_t_224", "mask_rcnn/convnextv2_huge_3x")
    monkeypatch.setattr(rows.paper, "ROWS", {name: paper.ROWS[name] for name in chosen})
    lines = tool("accuracy", "--all", "--data-root", tmp_path / "absent").splitlines()
    assert lines == [
        f"left out cascade/convnext_b_3x: no data in {tmp_path / 'absent'}",
        "left out mask_rcnn/convnextv2_huge_3x: no recipe",
    ]


def test_all_finds_data_weights_and_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(
        rows.paper, "ROWS", {name: paper.ROWS[name] for name in ("upernet/convnext_t_512_160k",
        "upernet/convnext_s_512_160k", "mask_rcnn/convnext_t_3x", "cascade/convnext_t_3x")},
    )  # fmt: skip
    for folder in ("images/validation", "annotations/validation"):
        (tmp_path / "data/ADEChallengeData2016" / folder).mkdir(parents=True)
    (tmp_path / "data/coco/annotations").mkdir(parents=True)
    (tmp_path / "data/coco/val2017").mkdir()
    (tmp_path / "data/coco/annotations/instances_val2017.json").write_text("{}")
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "upernet_convnext_tiny_1k_512x512.pth").touch()
    run = tmp_path / "runs/convnext_t_3x"
    run.mkdir(parents=True)
    cfg = load_config("cascade/convnext_t_3x")
    set_plain_batch_norm(cfg, 1, "cpu")
    set_pretrained(cfg, "none")
    cfg.dump(run / "convnext_t_3x.py")
    for epoch in (12, 36):  # weights alone, as mmengine writes them where the config asks for no optimizer
        torch.save(dict(state_dict={}, meta=dict(iter=7330 * epoch)), run / f"epoch_{epoch}.pth")
    (run / "epoch_48.pth").touch()  # damaged
    (run / "last_checkpoint").write_text("/moved/since/epoch_36.pth")

    options = Options(data_root=str(tmp_path / "data"))
    found = list(rows.jobs_on_disk(options, [weights, tmp_path / "runs"], "pycocotools", tta=True))
    jobs = [(job.source, job.tta, job.checkpoint.name) for job in found if isinstance(job, Job)]
    assert jobs == [
        ("upernet/convnext_t_512_160k", False, "upernet_convnext_tiny_1k_512x512.pth"),
        ("upernet/convnext_t_512_160k", True, "upernet_convnext_tiny_1k_512x512.pth"),
        ("cascade/convnext_t_3x", False, "epoch_36.pth"),  # and not mask_rcnn's, whose file has the same name
    ]
    left_out = {entry.row for entry in found if not isinstance(entry, Job)}
    assert left_out == {"upernet/convnext_s_512_160k", "mask_rcnn/convnext_t_3x"}
    roots = {job.options.data_root for job in found if isinstance(job, Job)}
    assert roots == {str(tmp_path / "data" / name) for name in ("coco", "ADEChallengeData2016")}


def test_all_continues_after_a_row_that_fails(shapes, weights, tmp_path, tool, monkeypatch):
    """A damaged checkpoint gives one line; the next row is measured; a second call measures nothing."""
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    options = Options(work_dir="w", data_root=str(shapes / "ade20k"))
    jobs = [Job(SEGMENTOR, tmp_path / "bad.pth", options), Job(SEGMENTOR, weights[SEGMENTOR], options)]
    monkeypatch.setattr(benchmark, "jobs_on_disk", lambda *_: iter(jobs))
    for again in (False, True):
        with pytest.raises(SystemExit) as ended:
            benchmark.main(["accuracy", "--all"])
        assert ended.value.code == 1
        assert len(read_records("results")) == 1, again


# ---- what is logged


def test_mlflow_writes_into_the_work_folder_or_to_the_server_that_the_environment_names(
    monkeypatch, tmp_path
):
    from convnext_dense.mm.config import edit

    monkeypatch.setattr(edit, "find_spec", lambda name: object())
    for server, expected in ((None, f"sqlite:///{tmp_path / 'run/mlflow.db'}"), ("http://s:5", "http://s:5")):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if server:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        cfg = Config(dict(work_dir=str(tmp_path / "run")))
        set_backends(cfg, "mlflow")
        assert cfg.visualizer.vis_backends[-1].tracking_uri == expected


@pytest.mark.parametrize(("log", "backend"), [("wandb", "WandbVisBackend"), ("mlflow", "MLflowVisBackend")])
def test_another_log_joins_tensorboard(monkeypatch, log, backend):
    from convnext_dense.mm.config import edit

    monkeypatch.setattr(edit, "find_spec", lambda name: object())
    cfg = Config(dict())
    for _ in range(2):
        set_backends(cfg, log)
        kinds = [entry.type for entry in cfg.visualizer.vis_backends]
        assert kinds == ["LocalVisBackend", "TensorboardVisBackend", backend]
    assert cfg.visualizer.type == "Visualizer"
    assert [hook.type for hook in cfg.custom_hooks] == ["GroupRatesHook"]
    monkeypatch.setattr(edit, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"pip install {log}"):
        set_backends(Config(dict()), log)
    with pytest.raises(UserError, match="use one of wandb, mlflow"):
        set_backends(Config(dict()), "paper")


def test_training_logs_the_rate_of_every_layer(shapes, tmp_path):
    """Against the decay by hand: three stages of one block and one of three make layers 0 to 5."""
    from convnext_dense.mm.apis.train import TrainOptions, training_runner

    overrides = {
        "train_cfg.max_iters": 2,
        "train_cfg.val_interval": 10,
        "default_hooks.logger.interval": 1,
        "param_scheduler": [],
        "visualizer.name": "rates",  # mmengine keeps one visualizer per name in a process
        "optim_wrapper.constructor": "LayerDecayOptimWrapperConstructor",
        "optim_wrapper.paramwise_cfg": dict(_delete_=True, decay_rate=0.5),
    }
    options = TrainOptions(
        work_dir=str(tmp_path), data_root=str(shapes / "ade20k"), overrides=overrides, seed=0
    )
    training_runner(SEGMENTOR, options).train()
    (path,) = tmp_path.glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert "loss" in records[0]
    rates = [record for record in records if "lr/layer 0" in record]
    assert [record["step"] for record in rates] == [1, 2]
    expected = {f"lr/layer {i}": 1.5e-3 * 0.5 ** (5 - i) for i in range(6)}
    assert {k: v for k, v in rates[0].items() if k != "step"} == pytest.approx(expected)
    terminal = (path.parents[1] / f"{path.parents[1].name}.log").read_text()
    assert not re.search(r"Iter\(train\).*lr/layer", terminal)
