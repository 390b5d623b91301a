"""The conversion command with --verify, in its own process: nothing here prepares its imports."""

import subprocess
import sys

import pytest
import torch
from repository import ROOT

from convnext_dense import Classifier
from convnext_dense.checkpoints.load import own_tensors

TOOL = ROOT / "tools/convert_checkpoint.py"


@pytest.mark.parametrize("use_grn", [False, True])
@pytest.mark.parametrize("target", ["timm", "hf", "mmpretrain"])
def test_both_implementations_run_and_agree(tmp_path, target, use_grn):
    model = Classifier(dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)), num_classes=5, use_grn=use_grn)
    for parameter in model.parameters():  # far from the initial values, whose variance is near epsilon
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save(own_tensors(model), tmp_path / "in.pth")
    command = [sys.executable, str(TOOL), "in.pth", "out.safetensors", "--to", target, "--verify"]
    done = subprocess.run([*command, "--size", "64"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "logits: largest difference" in done.stdout or target == "mmpretrain"
    assert done.stdout.count("stage ") == 4 and (tmp_path / "out.safetensors").is_file()
