"""Loading is exact and safe: files that fit load whole, all others end in one clear line."""

import http.server
import threading
from functools import partial

import pytest
import torch

from convnext_dense import CheckpointError, ConvNeXt, load_checkpoint
from convnext_dense.checkpoint import infer_arch

MICRO = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


def released_classifier(arch=MICRO) -> dict[str, torch.Tensor]:
    """State dict of a classifier in the released naming, with random values."""
    torch.manual_seed(0)
    body = {
        k: torch.randn_like(v) for k, v in ConvNeXt(arch).state_dict().items() if not k.startswith("norm")
    }
    last = body["stages.3.0.norm.weight"].numel()
    head = {"norm.weight": last, "norm.bias": last, "head.weight": (10, last), "head.bias": 10}
    return {**body, **{key: torch.randn(shape) for key, shape in head.items()}}


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_a_released_classifier_loads_whole(tmp_path, caplog, wrapper):
    state = released_classifier()
    path = tmp_path / "convnext.pth"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    model = ConvNeXt(MICRO)
    with caplog.at_level("INFO", logger="convnext_dense"):
        report = load_checkpoint(model, str(path))
    own = model.state_dict()
    body = [key for key in state if not key.startswith(("norm.", "head."))]
    assert all(torch.equal(own[key], state[key]) for key in body)
    assert set(report.loaded) == set(body)
    assert (
        set(own) - set(report.loaded)
        == set(report.fresh)
        == {f"norm{i}.{p}" for i in range(4) for p in ("weight", "bias")}
    )
    count = len(body)
    assert f"backbone: {count}/{count} tensors from facebook naming (dropped: norm.*, head.*" in caplog.text


def test_the_released_tiny_has_178_backbone_tensors(tmp_path):
    path = tmp_path / "tiny.pth"
    torch.save({"model": released_classifier("tiny")}, path)
    assert len(load_checkpoint(ConvNeXt("tiny"), str(path)).loaded) == 178


def test_the_backbone_of_a_detector_loads_with_its_output_norms(tmp_path):
    source = ConvNeXt(MICRO)
    state = {f"backbone.{key}": torch.randn_like(value) for key, value in source.state_dict().items()}
    path = tmp_path / "detector.pth"
    torch.save({"state_dict": {**state, "neck.conv.weight": torch.zeros(1)}}, path)
    model = ConvNeXt(MICRO, out_indices=(1, 3))
    report = load_checkpoint(model, str(path))
    assert all(torch.equal(value, state[f"backbone.{key}"]) for key, value in model.state_dict().items())
    assert report.fresh == ()
    assert {key.split(".")[0] for key in report.dropped} == {"norm0", "norm2"}


def damaged(state: dict, kind: str) -> dict:
    key = "stages.2.1.pwconv1.weight"
    changes = {
        "missing": {k: v for k, v in state.items() if k != key},
        "unknown": {**state, "stages.2.1.attention.weight": torch.zeros(1)},
        "misshapen": {**state, key: state[key][:-1]},
    }
    return changes[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", r"1 missing, first \['stages.2.1.pwconv1.weight'\]"),
        ("unknown", r"stages.2.1.attention.weight"),
        ("misshapen", r"stages.2.1.pwconv1.weight \(95, 24\) for \(96, 24\)"),
    ],
)
def test_a_misfit_is_named_and_loads_nothing(tmp_path, kind, words):
    path = tmp_path / "bad.pth"
    torch.save(damaged(released_classifier(), kind), path)
    model = ConvNeXt(MICRO)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as error:
        load_checkpoint(model, str(path))
    assert "bad.pth" in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_another_arch_is_the_named_cause(tmp_path):
    path = tmp_path / "small.pth"
    with torch.device("meta"):
        keys = ConvNeXt("small").state_dict()
    # one element each, expanded: the shapes of the small arch in a small file
    torch.save({k: torch.zeros(1).expand(v.shape) for k, v in keys.items()}, path)
    with pytest.raises(CheckpointError, match="the file is small, the model tiny"):
        load_checkpoint(ConvNeXt("tiny"), str(path))
    assert infer_arch(keys).depths == (3, 3, 27, 3)


class _Runs:
    """Unpickling this would call ``open(path, 'w')``."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_runs_code_does_not_run(tmp_path):
    proof, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"model": released_classifier(), "extra": _Runs(proof)}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pth is not .* plain tensors .*GLOBAL io\.open"):
        load_checkpoint(ConvNeXt(MICRO), str(path))
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the file is not the threat it is meant to be"


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>not found</html>", b"PK\x03\x04 cut"])
def test_files_that_are_no_checkpoints(tmp_path, content):
    path = tmp_path / "download.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"download\.pth") as error:
        load_checkpoint(ConvNeXt(MICRO), str(path))
    assert "\n" not in str(error.value)


def test_a_truncated_file_and_an_empty_state(tmp_path):
    path = tmp_path / "cut.pth"
    torch.save(released_classifier(), path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"cut.pth cannot be read"):
        load_checkpoint(ConvNeXt(MICRO), str(path))
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_checkpoint(ConvNeXt(MICRO), str(path))
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(ConvNeXt(MICRO), str(tmp_path / "absent.pth"))


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_url_is_downloaded_once_and_whole(tmp_path, server, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder, url = server
    torch.save({"model": released_classifier()}, folder / "w.pth")
    load_checkpoint(ConvNeXt(MICRO), f"{url}/w.pth")
    (folder / "w.pth").unlink()
    load_checkpoint(ConvNeXt(MICRO), f"{url}/w.pth")
    assert [p.name for p in (tmp_path / "hub/checkpoints").iterdir()] == ["w.pth"]
    with pytest.raises(CheckpointError, match=rf"cannot download {url}/absent.pth"):
        load_checkpoint(ConvNeXt(MICRO), f"{url}/absent.pth")
    with pytest.raises(CheckpointError, match="cannot download"):
        load_checkpoint(ConvNeXt(MICRO), "http://127.0.0.1:9/unreachable.pth")
    assert [p.name for p in (tmp_path / "hub/checkpoints").iterdir()] == ["w.pth"]
