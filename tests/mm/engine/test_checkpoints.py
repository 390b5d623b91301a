"""mmengine's checkpoints read back safely; whole models load exactly."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import nn

import convnext_dense.mm  # noqa: F401  (makes mmengine read safely)
from convnext_dense import CheckpointError
from convnext_dense.mm.engine.checkpoints import load_model


def test_a_training_state_of_mmengine_reads_back(tmp_path):
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    state = {
        "meta": {"iter": 7, "config": "raise SystemExit", "dataset_meta": {"classes": ("a", "b")}},
        "state_dict": {"weight": torch.ones(2)},
        "message_hub": {
            "log_scalars": {"loss": buffer},
            "runtime_info": {"lr": np.float64(0.5), "n": np.int64(3)},
        },
    }
    torch.save(state, tmp_path / "iter_7.pth")
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "iter_7.pth"))
    assert loaded["meta"] == {"iter": 7, "dataset_meta": {"classes": ("a", "b")}}, (
        "config text must not come back"
    )
    assert loaded["message_hub"]["log_scalars"]["loss"].mean() == 2.0
    assert loaded["message_hub"]["runtime_info"] == {"lr": 0.5, "n": 3}


class _Reaches:
    """Pickled as ``getattr(owner, name)``."""

    def __init__(self, owner, name):
        self.args = (owner, name)

    def __reduce__(self):
        return getattr, self.args


class _Runs:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_what_is_not_allowed_is_refused_and_does_not_run(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "x": _Runs(tmp_path / "ran")}, path)
    with pytest.raises(CheckpointError, match="evil"):
        CheckpointLoader.load_checkpoint(str(path))
    assert not (tmp_path / "ran").exists()
    torch.save({"x": _Reaches(HistoryBuffer, "__init__")}, path)
    with pytest.raises(CheckpointError, match="getattr of '__init__' is not allowed"):
        CheckpointLoader.load_checkpoint(str(path))
    assert pickle.loads(pickle.dumps(_Reaches(HistoryBuffer, "__init__"))) is HistoryBuffer.__init__


def test_a_whole_model_loads_exactly_or_not_at_all(tmp_path):
    path = tmp_path / "model.pth"
    source = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    torch.save({"state_dict": source.state_dict(), "meta": {"epoch": 1}}, path)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    assert load_model(model, str(path)) == {"epoch": 1}
    assert torch.equal(model[1].weight, source[1].weight)
    other = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1, bias=False))
    before = other[0].weight.clone()
    with pytest.raises(
        CheckpointError, match=r"1 not in the model, first \['1\.bias'\].*0\.weight \(3, 2\) for \(4, 2\)"
    ):
        load_model(other, str(path))
    assert torch.equal(other[0].weight, before)
