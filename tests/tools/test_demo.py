"""The demo: its configs fit its data, and the whole of it runs through in a few steps."""

import json
import os
import subprocess
import sys

import pytest
from mmengine.config import Config
from repository import ROOT
from waiting import HANGS

from convnext_dense.commands import demo
from convnext_dense.data import synthetic

CONFIGS = {"detection": "mask_rcnn_shapes", "segmentation": "upernet_shapes"}


def config(name: str) -> Config:
    return Config.fromfile(ROOT / "configs" / "demo" / f"{CONFIGS[name]}.py")


def test_configs_name_the_classes_of_the_scenes():
    detection, segmentation = config("detection"), config("segmentation")
    assert tuple(detection.metainfo.classes) == synthetic.CLASSES
    assert tuple(segmentation.metainfo.classes) == synthetic.SEGMENTATION_CLASSES
    assert detection.model.roi_head.bbox_head.num_classes == len(synthetic.CLASSES)
    assert detection.model.roi_head.mask_head.num_classes == len(synthetic.CLASSES)
    assert segmentation.model.decode_head.num_classes == len(synthetic.SEGMENTATION_CLASSES)


@pytest.mark.parametrize("name", CONFIGS)
def test_models_stay_small(name):
    from mmengine.registry import MODELS, init_default_scope

    import convnext_dense.mm  # noqa: F401

    cfg = config(name)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) < 4e6


@pytest.mark.parametrize(
    ("value", "verdict", "good"), [(0.90, "ok", True), (0.85, "ok", True), (0.84, "MISSED", False)]
)
def test_the_report_judges_each_target(value, verdict, good):
    coco = {"box AP": 80, "box AP50": 95, "mask AP50": 95}
    table, reached = demo.report({"detection": coco, "segmentation": {"mIoU": 100 * value}})
    assert reached is good
    assert table.splitlines()[-1].split() == ["segmentation", "mIoU", f"{value:.3f}", "0.85", verdict]


def test_a_few_steps_of_the_whole_demo(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "demo.py")]
    options = ["--out", "out", "--train", "8", "--val", "3", "--steps", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command + options, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("detection.png", "segmentation.png", "curves.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert 0 <= metrics["detection"]["mask AP50"] <= 100
    assert 0 <= metrics["segmentation"]["mIoU"] <= 100
    assert "segmentation mIoU" in done.stdout


def test_a_step_that_fails_ends_in_its_own_message(tmp_path, capfd):
    """Not in a traceback of the demo's."""
    with pytest.raises(SystemExit) as ended:
        demo.run_tool("train", "demo/no_such_recipe", "--work-dir", tmp_path)
    said = capfd.readouterr().err
    assert ended.value.code == 2 and said.count("error:") == 1 and "Traceback" not in said
