"""The conversion command: what it writes, and what it refuses to write."""

import subprocess
import sys

import pytest
import torch
from namings import ENTRIES, MICRO, random_state
from repository import ROOT

from convnext_dense import CheckpointError, Classifier, ConvNeXt, IsotropicConvNeXt, load_checkpoint
from convnext_dense.checkpoints.convert import TARGETS, build_model, convert, write_checkpoint
from convnext_dense.checkpoints.load import own_tensors
from convnext_dense.checkpoints.read import read_state_dict

TOOL = ROOT / "tools/convert_checkpoint.py"


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_there_and_back_through_files(tmp_path):
    state = random_state(ENTRIES["facebook_v1_classifier"]["keys"])
    torch.save({"model": state, "epoch": 3}, tmp_path / "a.pth")
    first = run(tmp_path / "a.pth", tmp_path / "out/b.safetensors", "--to", "hf")
    assert first.returncode == 0, first.stderr
    assert f"read {len(state)} tensors, facebook naming" in first.stdout
    assert f"wrote {len(state)} tensors, hf naming" in first.stdout
    assert set(read_state_dict(tmp_path / "out/b.safetensors")) == set(ENTRIES["hf_v1_classifier"]["keys"])
    second = run(tmp_path / "out", tmp_path / "c.pth", "--to", "facebook")
    assert second.returncode == 0, second.stderr
    back = torch.load(tmp_path / "c.pth", weights_only=True)["model"]
    assert set(back) == set(state) and all(torch.equal(back[key], state[key]) for key in state)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.pth", "b.safetensors", "c.pth", "out"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("absent.pth", "o.pth", "--to", "timm"), "error: no checkpoint at absent.pth"),
        (("v2.pth", "o.pth", "--to", "torchvision"), "error: torchvision has no place for 10 tensors"),
        (("v2.pth", "o.pth", "--to", "facebook", "--verify"), "there is nothing to compare"),
        (("v2.pth", "v2.pth/o.pth", "--to", "timm"), "error: cannot write"),
    ],
)
def test_a_refusal_is_one_line_and_writes_nothing(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    torch.save(random_state(ENTRIES["facebook_v2_classifier"]["keys"]), "v2.pth")
    done = run(*arguments)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["v2.pth"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_target_reads_back(tmp_path, target, suffix):
    model = Classifier(MICRO, num_classes=5)
    write_checkpoint(convert(own_tensors(model), target).state, tmp_path / f"w{suffix}", target)
    other = Classifier(MICRO, num_classes=5)
    load_checkpoint(other, tmp_path / f"w{suffix}")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "model",
    [
        Classifier(MICRO, num_classes=5, use_grn=True),
        ConvNeXt(MICRO, layer_scale_init_value=0, in_channels=4),
        IsotropicConvNeXt(dict(depths=(3,), dims=(8,))),
        Classifier(dict(depths=(2,), dims=(8,)), layer_scale_init_value=1.0),
    ],
    ids=["v2", "dense", "isotropic", "isotropic-scaled"],
)
def test_a_model_is_rebuilt_from_its_tensors(model):
    rebuilt = build_model({name: value.clone() for name, value in own_tensors(model).items()})
    assert type(rebuilt) is type(model)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in rebuilt.state_dict().items())


def test_a_part_cannot_be_rebuilt():
    state = ConvNeXt(MICRO).state_dict()
    with pytest.raises(CheckpointError, match="not a whole ConvNeXt: 1 missing"):
        build_model({name: value for name, value in state.items() if name != "stages.2.1.norm.bias"})
    with pytest.raises(CheckpointError, match="not a whole ConvNeXt"):
        build_model({name: value for name, value in state.items() if "downsample" not in name})
