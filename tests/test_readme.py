"""What the README and docs/ show can be done as shown."""

import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from repository import ASSETS, ROOT

import convnext_dense.mm  # noqa: F401
from convnext_dense import ConvNeXt

SWAP, PLAIN = re.findall(r"```python\n(.+?)```", (ROOT / "docs/swap.md").read_text(), flags=re.DOTALL)
START = re.findall(r"```python\n(.+?)```", (ROOT / "docs/get_started.md").read_text(), flags=re.DOTALL)[0]


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


def test_the_first_example_prints_what_the_page_says(capsys):
    exec(START, {})
    said = re.findall(r"^# (.+)$", START, re.MULTILINE)[-1]
    assert capsys.readouterr().out.strip() == said


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "tools/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PATH = re.compile(r"\b(?:configs|tools|docs|tests|convnext_dense)/[\w/]+\.(?:py|md|png|sh|json)")
OPTIONS = json.loads((ASSETS / "options.json").read_text())
SCRIPT = re.compile(r"(?<!tests/)\btools/(?:dev/)?(\w+)\.py\b(.*)")
SUBCOMMAND = re.compile(r"(?:^|\s)(?:convnext-dense|-m convnext_dense) ([a-z][a-z-]*)(.*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_and_target_that_a_page_names_is_there(page):
    text = page.read_text()
    for name in set(PATH.findall(text)):
        assert (ROOT / name).is_file(), name
    targets = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)|^make (\w+)", text, re.MULTILINE)):
        assert f"\n{''.join(target)}:" in targets, target


def commands(page: Path) -> list[tuple[str, str]]:
    """Commands of ours in a page's code: a name in the frozen options, and what follows it."""
    blocks = re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    lines = [line.split(" #")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in [*lines, *spans]:
        if match := SCRIPT.search(line):
            found.append((match[1], match[2]))
        elif match := SUBCOMMAND.search(line):
            found.append((f"convnext-dense {match[1]}", match[2]))
    return found


def test_the_pages_show_commands():
    assert sum(len(commands(page)) for page in PAGES) > 120


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_page_shows_exists_with_its_options(page):
    for name, rest in commands(page):
        known = OPTIONS[name]
        words = rest.split()
        if words and isinstance(known.get(words[0]), dict):  # a subcommand of a tool
            known = known[words[0]]
        flags = {flag for key in known for flag in key.split()}
        for word in words:
            if re.fullmatch(r"--[a-z][\w-]*", word):
                assert word in flags, f"{name} {rest}"
