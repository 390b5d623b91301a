"""`tools/benchmark.py reproduce` on made-up checkpoints under released file and parameter names.

Two rows of the tables are swapped for the demo's small models, so that a test of "the whole val set" takes a
second; two more are the released ones, at the released size.
"""

import copy
import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from repository import ASSETS

from convnext_dense.commands import benchmark
from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.bench import accuracy, reproduce
from convnext_dense.mm.config.load import load_config
from convnext_dense.results import paper, records
from convnext_dense.results.records import read_records

DETECTOR, SEGMENTOR = "demo/mask_rcnn_shapes", "demo/upernet_shapes"
RELEASED = {
    entry["name"]: entry["keys"]
    for entry in json.loads((ASSETS / "released_models.json").read_text())["models"]
}
MASK_RCNN, UPERNET = "mask_rcnn/convnext_t_3x", "upernet/convnext_t_512_160k"
SMALL_ROWS = {
    DETECTOR: paper.ROWS[MASK_RCNN]._replace(name=DETECTOR, box=paper.AP(0, 0, 0), mask=paper.AP(0, 0, 0)),
    SEGMENTOR: paper.ROWS[UPERNET]._replace(name=SEGMENTOR, miou=99.0, miou_ms=99.5),
}
SMALL_WEIGHTS = {
    DETECTOR: paper.facebook("coco/small_detector"),
    SEGMENTOR: paper.facebook("ade20k/small_segmentor"),
}


@pytest.fixture(scope="module", autouse=True)
def quick_configs():
    """Configs that are read once, with small images, without worker processes and pretty printing."""

    @functools.cache
    def read(path: str) -> Config:
        cfg = from_file(path)
        cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
        for step in cfg.test_dataloader.dataset.pipeline:
            if step.type.endswith("Resize"):
                step.scale = (64, 64)
        return cfg

    from_file = Config.fromfile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "fromfile", lambda path: copy.deepcopy(read(str(path))))
        patch.setattr(Config, "pretty_text", "")
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two images in both layouts with the shapes' classes, for the small models."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, train=1, val=2, size=64)
    for path in [*root.glob("ade20k/*/validation/*")]:
        path.rename(path.with_name(f"ADE_val_{path.name}"))
    return root


@pytest.fixture(scope="module")
def known(data) -> Path:
    """The same images with COCO's class names, and where the released rows look for ADE20K."""
    from mmdet.datasets import CocoDataset  # after convnext_dense.mm, which serves its ops

    root = data.with_name("known")
    shutil.copytree(data / "coco", root / "coco")
    for name in ("ade20k", "ADEChallengeData2016"):
        shutil.copytree(data / "ade20k", root / name)
    names = CocoDataset.METAINFO["classes"]
    for path in root.glob("coco/annotations/*.json"):
        table = json.loads(path.read_text())
        table["categories"] = [dict(id=number, name=name) for number, name in enumerate(names, 1)]
        path.write_text(json.dumps(table))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Folder with one checkpoint per row: small random models; released models with one value per tensor."""
    folder = tmp_path_factory.mktemp("weights")
    for recipe, url in SMALL_WEIGHTS.items():
        cfg = load_config(recipe)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        state = MODELS.build(cfg.model).state_dict()
        if recipe == DETECTOR:
            state["roi_head.bbox_head.fc_cls.bias"][-1] = 1000  # nothing but background: AP is 0
        save(folder, url, state)
    for row, name in ((MASK_RCNN, "mask_rcnn_convnext_tiny"), (UPERNET, "upernet_convnext_tiny")):
        save(folder, paper.WEIGHTS[row], released_state(name))
    return folder


def save(folder: Path, url: str, state: dict) -> Path:
    """Write a checkpoint as the release has it, under its released file name."""
    path = folder / Path(url).name
    torch.save(dict(state_dict=state, meta=dict(mmdet_version="2.11.0", config="# text", epoch=36)), path)
    return path


def released_state(name: str, **other_shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A released model's names and shapes; an expanded value takes no room in the file."""
    shapes = {**RELEASED[name], **{key.replace("__", "."): shape for key, shape in other_shapes.items()}}
    return {
        key: torch.tensor(0 if key.endswith("num_batches_tracked") else 0.01).expand(shape)
        for key, shape in shapes.items()
    }


@pytest.fixture
def small_tables(monkeypatch, data):
    """Tables of the two small rows, whose whole val set is the two images."""
    monkeypatch.setattr(paper, "ROWS", SMALL_ROWS)
    monkeypatch.setattr(paper, "WEIGHTS", SMALL_WEIGHTS)
    objects = len(json.loads((data / "coco/annotations/instances_val2017.json").read_text())["annotations"])
    monkeypatch.setattr(records, "COCO_VAL", dict(images=2, objects=objects, classes=3))
    monkeypatch.setattr(records, "ADE20K_VAL", dict(images=2, classes=4))


@pytest.fixture
def tool(monkeypatch, tmp_path, capsys):
    """Runs the command in this process, from an empty folder; its output without that of mmengine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def run(*arguments: object, status: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            benchmark.main(["reproduce", *map(str, arguments)])
        said = capsys.readouterr()
        assert ended.value.code == status, said.out + said.err
        return said.out + said.err

    return run


def verdicts(folder: str = "results") -> dict[str, str]:
    """Row -> verdict, from the summary on disk."""
    tests = json.loads((Path(folder) / "reproduction.json").read_text())["tests"]
    return {test["row"] + " ms" * test["tta"]: test["verdict"] for test in tests}


def test_without_files_one_line_says_what_to_get(tmp_path, tool, data, weights):
    said = tool("--data-root", data, "--checkpoints", "mine", "--rows", "cascade/convnext_t_3x", status=2)
    url = paper.WEIGHTS["cascade/convnext_t_3x"]
    assert "cascade_mask_rcnn_convnext_tiny_1k_3x.pth  no checkpoint\n" in said
    assert said.endswith(
        f"error: nothing can be measured; for cascade/convnext_t_3x: download {url} into mine\n"
    )
    said = tool("--data-root", tmp_path / "coco", "--checkpoints", weights, "--rows", MASK_RCNN, status=2)
    assert "mask_rcnn_convnext_tiny_1k_3x.pth  no data\n" in said
    assert f"lay out COCO val2017 as {tmp_path}/coco/annotations/instances_val2017.json and " in said
    assert not Path("results").exists()
    assert "near: upernet/" in tool("--rows", "uppernet/convnext_t_512_160k", status=2)
    assert "several scales only; add --tta" in tool("--rows", "swin_t_512_160k", status=2)
    assert tool("--quick", 0, status=2) == "error: --quick 0: give a number of images of 1 or more\n"


def test_the_users_own_run_is_no_released_checkpoint(tool, small_tables, data):
    run = Path("work_dirs/convnext")
    run.mkdir(parents=True)
    save(run, "epoch_36.pth", {"a": torch.zeros(1)})
    tool("--data-root", data, "--checkpoints", "work_dirs", status=2)


def test_whole_val_sets_end_in_verdicts_and_are_not_measured_twice(
    tool, small_tables, data, weights, monkeypatch
):
    options = ("--data-root", data, "--checkpoints", weights)
    said = tool(*options, status=1)
    assert said.index("plan: 2 will run") < said.index("[trial 1/2]") < said.index("[1/2]")
    assert verdicts() == {DETECTOR: "reproduced", SEGMENTOR: "differs"}
    assert "1 reproduced, 1 differs (tolerance: 0.1 points)" in said
    assert len(read_records("results")) == 2, "trials are not recorded"
    assert str(data.parent) not in Path("results/reproduction.json").read_text()
    assert "| demo/mask_rcnn_shapes | one scale | 0.0 / 0.0 |" in Path("results/reproduction.md").read_text()

    protocol = accuracy.run_protocol
    for module in (accuracy, reproduce):
        monkeypatch.setattr(module, "run_protocol", lambda *_: pytest.fail("it is recorded"))
    assert "plan: 0 will run, 2 recorded" in tool(*options, status=1)
    assert verdicts() == {DETECTOR: "reproduced", SEGMENTOR: "differs"}
    for module in (accuracy, reproduce):
        monkeypatch.setattr(module, "run_protocol", protocol)
    said = tool(*options, "--tta", "--rows", SEGMENTOR, status=1)
    assert "plan: 1 will run, 1 recorded" in said
    assert verdicts() == {SEGMENTOR: "differs", f"{SEGMENTOR} ms": "differs"}


def test_ctrl_c_keeps_what_was_measured(tool, small_tables, data, weights, monkeypatch):
    options = ("--data-root", data, "--checkpoints", weights, "--quick", 1)
    protocol = accuracy.run_protocol

    def interrupted(job, results=None):
        if job.source == SEGMENTOR:
            raise KeyboardInterrupt
        return protocol(job, results)

    monkeypatch.setattr(accuracy, "run_protocol", interrupted)
    said = tool(*options, status=130)
    assert said.endswith("interrupted; what was measured is recorded, and the same command resumes there\n")
    assert verdicts("results/quick") == {DETECTOR: "not the whole val set", SEGMENTOR: "not yet measured"}
    monkeypatch.setattr(accuracy, "run_protocol", protocol)
    assert "plan: 1 will run, 1 recorded" in tool(*options)
    assert set(verdicts("results/quick").values()) == {"not the whole val set"}
    assert not read_records("results"), "a smoke test is recorded separately"


def test_released_models_load_exactly_and_predict(tool, known, weights):
    said = tool("--data-root", known, "--checkpoints", weights, "--rows", "convnext_t_*", "--quick", 1)
    assert "plan: 2 will run, 0 recorded, 1 not on disk" in said
    assert verdicts("results/quick") == {
        MASK_RCNN: "not the whole val set", "cascade/convnext_t_3x": "not on disk",
        UPERNET: "not the whole val set",
    }  # fmt: skip


def test_bad_checkpoints_fail_in_one_line_before_the_others_run(tool, known, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "ROWS", {**paper.ROWS, SEGMENTOR: SMALL_ROWS[SEGMENTOR]})
    monkeypatch.setattr(paper, "WEIGHTS", {**paper.WEIGHTS, SEGMENTOR: SMALL_WEIGHTS[SEGMENTOR]})
    folder = tmp_path / "weights"
    folder.mkdir()
    whole = (weights / "mask_rcnn_convnext_tiny_1k_3x.pth").read_bytes()
    (folder / "mask_rcnn_convnext_tiny_1k_3x.pth").write_bytes(whole[: len(whole) // 2])
    state = released_state("upernet_convnext_tiny", decode_head__conv_seg__bias=(151,))
    save(folder, paper.WEIGHTS[UPERNET], state)
    (folder / "small_segmentor.pth").symlink_to(weights / "small_segmentor.pth")

    options = ("--data-root", known, "--checkpoints", folder, "--rows", MASK_RCNN, UPERNET, SEGMENTOR)
    said = tool(*options, status=1)
    assert verdicts() == {MASK_RCNN: "failed", UPERNET: "failed", SEGMENTOR: "not the whole val set"}
    last_failure = said.rindex("\nfailed upernet/")
    assert last_failure < said.index(f"[1/1] {SEGMENTOR}"), "the trials come first, and only one test is left"
    table = said[said.index("\n\nrow ") :]
    assert "failed: mask_rcnn_convnext_tiny_1k_3x.pth is truncated or damaged" in table
    assert "decode_head.conv_seg.bias (151,) for (150,)" in table
    assert "Traceback" not in said
    assert str(tmp_path) not in Path("results/reproduction.json").read_text()
