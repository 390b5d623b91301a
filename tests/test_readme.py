"""What the README shows can be done as shown."""

import re

import torch
from mmengine.config import Config
from repository import ROOT

import convnext_dense.mm  # noqa: F401
from convnext_dense import ConvNeXt

README = (ROOT / "README.md").read_text()
SWAP, PLAIN = re.findall(r"```python\n(.+?)```", README, flags=re.DOTALL)


def test_the_swapped_detector_builds_and_runs(tmp_path):
    from mmdet.registry import MODELS
    from mmengine.optim import build_optim_wrapper

    (tmp_path / "swap.py").write_text(SWAP)
    cfg = Config.fromfile(tmp_path / "swap.py")
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    assert isinstance(model.backbone, ConvNeXt)
    losses = model(
        torch.zeros(1, 3, 64, 64),
        [_empty_sample()],
        mode="loss",
    )
    assert "loss_rpn_cls" in losses
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    assert min(group["lr"] for group in groups) < 1e-4 * 0.95**5


def _empty_sample():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    sample = DetDataSample(metainfo=dict(img_shape=(64, 64), pad_shape=(64, 64), scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return sample


def test_the_plain_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = {k: v for k, v in ConvNeXt("base").state_dict().items() if not k.startswith("norm")}
    torch.save({"model": body}, "convnext_base_22k_224.pth")
    names: dict = {}
    exec(PLAIN.replace("800, 1216", "64, 96"), names)
    assert [level.shape[1] for level in names["levels"]] == [256, 512, 1024]


def test_every_file_it_names_is_there():
    for name in set(re.findall(r"(?:configs|tools|docs)/[\w/]+\.(?:py|md|png)", README)):
        assert (ROOT / name).is_file(), name
    targets = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make (\w+)", README)):
        assert f"\n{target}:" in targets, target
