"""Checkpoints of every layout give the exact tensors; all else gives a one-line error, and no code runs."""

import argparse
import collections
import gzip
import io
import json
import os
import pathlib
import pickle
import struct
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch

from convnext_dense.checkpoints import safe_pickle
from convnext_dense.checkpoints.read import read_state_dict
from convnext_dense.errors import CheckpointError, reason

STATE = {
    "stem.weight": torch.arange(12.0).reshape(3, 4),
    "stem.bias": torch.tensor([0.5, -1.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
}


def write(path, content, legacy=False, **options):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, **options)
    return path


def repacked(path, out, change):
    """The zip ``path`` rewritten by another library, with ``change(records)`` applied."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return out


def assert_exact(state, wanted=STATE):
    assert set(state) == set(wanted)
    for key, value in wanted.items():
        assert type(state[key]) is torch.Tensor and not state[key].requires_grad
        assert state[key].dtype == value.dtype and torch.equal(state[key], value), key


def refused(path, words):
    with pytest.raises(CheckpointError, match=words) as error:
        read_state_dict(path)
    text = str(error.value)
    assert "\n" not in text and str(path) in text
    for advice in ("weights_only", "add_safe_globals", "trust"):
        assert advice not in text
    return text


# ---- layouts


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.safetensors", "w"])
def test_torch_files_are_known_by_their_bytes(tmp_path, name, legacy):
    assert_exact(read_state_dict(write(tmp_path / name, STATE, legacy)))


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module", "net", "teacher", "model_ema"])
def test_wrappers_are_opened(tmp_path, wrapper):
    content = {"epoch": 3, wrapper: collections.OrderedDict(STATE), "optimizer": {"state": {0: STATE}}}
    assert_exact(read_state_dict(write(tmp_path / "w.pth", content)))
    assert_exact(read_state_dict(write(tmp_path / "w.pth", {"state_dict": content})))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_are_removed(tmp_path, prefix):
    state = {prefix + key: torch.nn.Parameter(v) if v.is_floating_point() else v for key, v in STATE.items()}
    assert_exact(read_state_dict(write(tmp_path / "w.pth", state)))
    refused(write(tmp_path / "w.pth", {**state, "count": STATE["count"]}), "holds count twice")


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema"])
def test_averaged_weights_only_when_asked(tmp_path, key):
    averaged = {name: value + 1 for name, value in STATE.items()}
    path = write(tmp_path / "w.pth", {key: averaged, "model": STATE})
    assert_exact(read_state_dict(path))
    assert_exact(read_state_dict(path, ema=True), averaged)
    with pytest.raises(CheckpointError, match=r"plain\.pth holds no averaged weights"):
        read_state_dict(write(tmp_path / "plain.pth", {"model": STATE}), ema=True)


def test_averages_of_torch_and_of_mmengine(tmp_path):
    average = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2))
    path = write(tmp_path / "w.pth", {"model_ema": average.state_dict(), "model": STATE})
    assert set(read_state_dict(path, ema=True)) == {"weight", "bias"}
    # mmengine's EMAHook.before_save_checkpoint swaps: `state_dict` is the average
    source = {f"module.{key}": value - 1 for key, value in STATE.items()}
    path = write(
        tmp_path / "w.pth", {"ema_state_dict": {"steps": torch.tensor(9), **source}, "state_dict": STATE}
    )
    assert_exact(read_state_dict(path))
    assert_exact(read_state_dict(path, ema=True))


def test_views_and_shared_memory(tmp_path):
    base = torch.arange(24.0)
    state = {
        "whole": base,
        "again": base,
        "row": base.view(4, 6)[1],
        "transposed": base.view(4, 6).t(),
        "every_other": base[::2],
        "expanded": torch.tensor([[2.0]]).expand(5, 7),
        "empty": torch.zeros(0, 3),
    }
    assert_exact(read_state_dict(write(tmp_path / "w.pth", state)), state)
    assert_exact(read_state_dict(write(tmp_path / "w.pth", state, legacy=True)), state)


def test_a_small_file_that_claims_a_huge_tensor_costs_nothing(tmp_path):
    import resource

    huge = torch.zeros(1).expand(1 << 20, 1 << 20)  # 4 TiB
    path = write(tmp_path / "w.pth", {"x": huge})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_state_dict(path)["x"].shape == huge.shape
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    overlapping = torch.zeros(2000).as_strided((1000, 1000), (1, 1))
    refused(write(tmp_path / "o.pth", {"x": overlapping}), "holds x as a tensor whose elements overlap")


class Allocates:
    """Pickled as a call that would reserve memory without need."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("function", "name"), [(bytearray, "builtins.bytearray"), (torch.FloatTensor, "torch.FloatTensor")]
)
def test_calls_that_reserve_memory_are_refused(tmp_path, function, name, legacy):
    path = write(tmp_path / "w.pth", {**STATE, "x": Allocates(function, 1 << 45)}, legacy)
    refused(path, f"it would run '{name}'")


def test_a_claim_beyond_the_stored_bytes(tmp_path):
    path = write(tmp_path / "w.pth", {"x": torch.arange(4.0)})

    def claim(records):
        (name,) = (name for name in records if name.endswith("data.pkl"))
        # numel of the storage, then the size of the tensor: 4 -> 8000
        changed = records[name].replace(b"K\x04tq", b"M\x40\x1ftq").replace(b"K\x04\x85", b"M\x40\x1f\x85")
        assert changed != records[name]
        records[name] = changed

    # torch 2.6 reads it, and more of the file than the tensor has
    refused(repacked(path, tmp_path / "r.pth", claim), "cannot be read|differs from the saved one")
    legacy = write(tmp_path / "l.pth", {"x": torch.arange(4.0)}, legacy=True)
    legacy.write_bytes(legacy.read_bytes().replace(b"K\x04\x85", b"M\x40\x1f\x85"))
    refused(legacy, "cannot be read")


def test_big_endian_archives_load_exactly(tmp_path):
    state = {"x": torch.tensor([1.5, -2.0, 3e20]), "i": torch.tensor([1, 258, -3], dtype=torch.int16)}
    path = write(tmp_path / "w.pth", state)

    def swap(records):
        for name, content in records.items():
            if name.endswith("/data/0"):
                records[name] = struct.pack(">3f", *struct.unpack("<3f", content))
            elif name.endswith("/data/1"):
                records[name] = struct.pack(">3h", *struct.unpack("<3h", content))
            elif name.endswith("byteorder"):
                records[name] = b"big"

    assert_exact(read_state_dict(repacked(path, tmp_path / "big.pth", swap)), state)

    def unknown(records):
        records[next(name for name in records if name.endswith("byteorder"))] = b"middle"

    refused(repacked(path, tmp_path / "odd.pth", unknown), "unknown byte order")


def test_tensors_saved_on_a_gpu_come_to_the_cpu(tmp_path):
    path = write(tmp_path / "w.pth", STATE)

    def move(records):
        name = next(name for name in records if name.endswith("data.pkl"))
        moved = records[name].replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:3")
        assert moved != records[name]
        records[name] = moved

    state = read_state_dict(repacked(path, tmp_path / "gpu.pth", move))
    assert_exact(state)
    assert all(value.device.type == "cpu" for value in state.values())


# ---- safetensors and shards


def test_safetensors(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    library.save_file(STATE, tmp_path / "w.pth")  # the name does not matter
    assert_exact(read_state_dict(tmp_path / "w.pth"))
    data = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-1])
    refused(tmp_path / "cut.safetensors", "cannot be read")
    nan = library.save({"x": torch.tensor([1.0, torch.nan])})
    (tmp_path / "nan.safetensors").write_bytes(nan)
    refused(tmp_path / "nan.safetensors", r"NaN or infinity in a tensor, first \['x'\]")


def test_safetensors_without_its_library(tmp_path, monkeypatch):
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))

    def broken(name, *args):
        raise ImportError("cannot load libx.so")

    monkeypatch.setattr("importlib.import_module", broken)
    refused(tmp_path / "w.safetensors", r"needs safetensors \(it is broken.*; pip install safetensors$")


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "sharded"
    folder.mkdir()
    keys = sorted(STATE)
    weight_map = {key: f"part-{index}.bin" for index, key in enumerate(keys)}
    for key, name in weight_map.items():
        write(folder / name, {key: STATE[key]})
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return folder


def test_shards_by_index_and_by_folder(shards):
    assert_exact(read_state_dict(shards))
    assert_exact(read_state_dict(shards / "pytorch_model.bin.index.json"))


def test_shards_that_differ_from_the_index(shards, tmp_path):
    write(shards / "part-1.bin", {"other": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"shard part-1\.bin has other"):
        read_state_dict(shards)
    write(shards / "part-1.bin", {})
    with pytest.raises(CheckpointError, match=r"shard part-1\.bin lacks stem\.bias"):
        read_state_dict(shards)
    (shards / "part-1.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"part-1\.bin is empty"):
        read_state_dict(shards)
    (shards / "part-1.bin").unlink()
    with pytest.raises(CheckpointError, match=r"shard part-1\.bin is missing"):
        read_state_dict(shards)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {}}',
        '{"weight_map": {"x": "../w.pth"}}',
        '{"weight_map": {"x": 3}}',
        '{"weight_map": {"x": ["a"]}}',
        '{"weight_map": {"x": "m.index.json"}}',
        '{"a":' * 100_000,
    ],
)
def test_bad_indices(tmp_path, text):
    (tmp_path / "m.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"m\.index\.json"):
        read_state_dict(tmp_path / "m.index.json")


def test_folders(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in the folder"):
        read_state_dict(tmp_path)
    write(tmp_path / "a.pth", STATE)
    assert_exact(read_state_dict(tmp_path))
    write(tmp_path / "b.pth", STATE)
    with pytest.raises(CheckpointError, match="2 checkpoints in the folder"):
        read_state_dict(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_state_dict(tmp_path / "absent.pth")


# ---- code in the file


class Calls:
    """Unpickling this calls ``function(*args)``."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def python(proof):
    return f"open({str(proof)!r}, 'w').close()"


class SetState:
    def __init__(self, proof):
        self.proof = str(proof)

    def __getstate__(self):
        return {"proof": self.proof}

    def __setstate__(self, state):
        open(state["proof"], "w").close()


def in_namespace(value):
    return argparse.Namespace(lr=1.0, hook=value)


def in_array(value):
    array = np.empty(1, dtype=object)
    array[0] = value
    return array


THREATS = {
    "os.system": lambda proof: Calls(os.system, f"touch {proof}"),
    "builtins.eval": lambda proof: Calls(eval, python(proof)),
    "builtins.exec": lambda proof: Calls(exec, python(proof)),
    "in a Namespace": lambda proof: in_namespace(Calls(exec, python(proof))),
    "in a numpy array": lambda proof: in_array(Calls(exec, python(proof))),
    "in a set": lambda proof: {1, Calls(exec, python(proof))},
    "as an optimizer": lambda proof: {"state": [Calls(open, str(proof), "w")]},
    "__setstate__": SetState,
    "getattr": lambda proof: Calls(Calls(getattr, pathlib.Path(proof), "touch")),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("threat", THREATS)
def test_code_in_a_file_does_not_run(tmp_path, threat, legacy):
    proof = tmp_path / "ran"
    if threat == "getattr":  # Path(proof).touch(): all names but the call are on the list
        if legacy:
            pytest.skip("written by hand below as a zip")
        path = getattr_chain(tmp_path, proof)
        refused(path, "reduce|call")
    else:
        path = write(tmp_path / "evil.pth", {"model": STATE, "extra": THREATS[threat](proof)}, legacy)
        text = refused(path, "is refused: it would run '")
        name = {
            "os.system": "posix.system",
            "as an optimizer": f"{open.__module__}.open",  # io or _io
            "__setstate__": f"{__name__}.SetState",
        }
        assert f"'{name.get(threat, threat if '.' in threat else 'builtins.exec')}'" in text
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the file is not the threat it is meant to be"


def getattr_chain(tmp_path, proof):
    text = str(proof).encode()
    pickle_bytes = (
        b"\x80\x02}X\x01\x00\x00\x00xcbuiltins\ngetattr\ncpathlib\nPosixPath\n"
        + b"X" + struct.pack("<I", len(text)) + text
        + b"\x85RX\x05\x00\x00\x00touch\x86R)Rs."
    )  # fmt: skip

    def change(records):
        records[next(name for name in records if name.endswith("data.pkl"))] = pickle_bytes

    return repacked(write(tmp_path / "w.pth", STATE), tmp_path / "evil.pth", change)


def test_history_buffers_are_inert_and_their_content_is_still_checked(tmp_path, monkeypatch):
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __setstate__(self, state):
            raise AssertionError("the real class was built")

        def mean(self):
            pass

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = module.__name__, "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    log = HistoryBuffer()
    log.values, log.methods = np.arange(3.0), {"mean": HistoryBuffer.mean}
    path = write(tmp_path / "epoch.pth", {"state_dict": STATE, "message_hub": {"loss": log}})
    assert_exact(read_state_dict(path))
    log.values = Calls(exec, python(tmp_path / "ran"))
    refused(
        write(tmp_path / "evil.pth", {"state_dict": STATE, "message_hub": {"loss": log}}), "'builtins.exec'"
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_what_training_scripts_add_is_ignored(tmp_path, legacy):
    extra = {
        "args": argparse.Namespace(lr=1e-4, out=pathlib.Path("x"), betas=(0.9, 0.95)),
        "best": np.float64(81.2),
        "curve": np.arange(3),
        "counts": collections.Counter("abc"),
        "logs": collections.defaultdict(list, {"loss": [1.0]}),
        "last": collections.deque([1, 2]),
        "seen": {1, 2},
    }
    path = write(tmp_path / "w.pth", {"model": STATE, **extra}, legacy)
    assert_exact(read_state_dict(path))


def test_stand_ins_keep_nothing_and_leave_torch_as_it_was(tmp_path):
    before = set(map(str, torch.serialization.get_safe_globals()))
    path = write(tmp_path / "w.pth", {"model": STATE, "args": argparse.Namespace(secret=1)})
    content = safe_pickle.read_zip(path)
    assert type(content["args"]) is safe_pickle.Inert and not vars(content["args"])
    assert set(map(str, torch.serialization.get_safe_globals())) == before


def test_a_whole_module_and_other_protocols_are_refused(tmp_path):
    refused(
        write(tmp_path / "m.pth", torch.nn.Linear(1, 1)), r"it would run 'torch\.nn\.modules\.linear\.Linear'"
    )
    refused(write(tmp_path / "p.pth", STATE, pickle_protocol=4), "pickle protocol 4|would run")
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"model": {"x": np.ones(3)}}))
    refused(tmp_path / "d.pkl", r"a pickle that torch\.save did not write")


def test_torch_s_advice_to_load_unsafely_is_never_shown():
    page = (
        "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will likely "
        "succeed.\nPlease file an issue\n WeightsUnpickler error: Unsupported global: GLOBAL a.b was not an "
        "allowed global by default. Please use `torch.serialization.add_safe_globals([a.b])`"
    )
    assert (
        reason(RuntimeError(page)) == "Unsupported global: GLOBAL a.b was not an allowed global by default."
    )
    assert reason(EOFError()) == "EOFError"


# ---- damage, and files that are something else


def test_a_flipped_bit_is_named_by_record(tmp_path):
    path = write(tmp_path / "w.pth", STATE)
    with zipfile.ZipFile(path) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith("/data/1"))
    data = bytearray(path.read_bytes())
    position = data.index(archive_bytes(STATE["stem.bias"]), info.header_offset)
    data[position] ^= 1
    path.write_bytes(data)
    refused(path, r"is damaged: checksum of w/data/1 differs")


def test_the_file_is_named_once_also_from_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "w.pth", {"epoch": 3})
    with pytest.raises(CheckpointError, match=r"^w\.pth holds no state dict"):
        read_state_dict("w.pth")
    (tmp_path / "m.index.json").write_text('{"weight_map": {"x": "w.pth", "y": "none.pth"}}')
    with pytest.raises(CheckpointError, match=r"^m\.index\.json .*shard none\.pth is missing beside it$"):
        read_state_dict("m.index.json")
    write(tmp_path / "w.pth", {"a\nb": torch.tensor([torch.nan])})
    refused(tmp_path / "w.pth", "NaN")


def marked_as_folder(path):
    """One bit in the directory at the end of the file, after which torch leaves the weights uninitialised."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"w/data/0") - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    data[entry + 38] |= 0x10
    path.write_bytes(data)


def test_a_record_marked_as_a_folder(tmp_path, monkeypatch):
    path = write(tmp_path / "w.pth", {"x": torch.randn(100, 100)})
    wanted = torch.load(path)["x"]
    marked_as_folder(path)
    refused(path, "is damaged: record w/data/0 is marked as a folder")
    # the second check, for what the first one misses
    monkeypatch.setattr(safe_pickle, "_FOLDER", 0)
    try:
        same = torch.equal(read_state_dict(path)["x"], wanted)  # a torch version that reads it anyway
    except CheckpointError as error:
        assert "torch reads a tensor that differs from the saved one" in str(error)
    else:
        assert same


def archive_bytes(tensor):
    return tensor.view(torch.int16).numpy().tobytes()


def test_zip_bombs_and_doubled_records(tmp_path):
    path = write(tmp_path / "w.pth", STATE)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
        archive.writestr("w/data/9", bytes(10_000_000))
    refused(tmp_path / "bomb.pth", "is refused: record w/.* is compressed")
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "twice.pth", "w") as archive:
        for name in [*records, "w/data/0"]:
            archive.writestr(name, records[name])
    refused(tmp_path / "twice.pth", "two records of the same name")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path, share, legacy):
    path = write(tmp_path / "w.pth", STATE, legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "truncated|damaged")


def as_gzip(path):
    path.write_bytes(gzip.compress(b"x" * 100))


def as_tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())


def as_torchscript(path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(path))


def as_npz(path):
    with open(path, "wb") as file:
        np.savez(file, x=np.ones(3))


def as_bytes(content):
    return lambda path: path.write_bytes(content)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (as_bytes(b""), r"is empty \(0 bytes\)"),
        (as_bytes(b"<!DOCTYPE html><html>no</html>"), "web page or XML"),
        (as_bytes(b"\xef\xbb\xbf\n<?xml version='1.0'?><Error>AccessDenied</Error>"), "web page or XML"),
        (as_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"), "git lfs pull"),
        (as_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "HDF5"),
        (as_bytes(b"\x08\x07\x12\x07pytorch" + bytes(64)), "ONNX"),
        (as_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(64)), "TensorFlow Lite"),
        (as_bytes(b"\x08\x01\x12\x20" + bytes(64)), "TensorFlow SavedModel"),
        (as_bytes(b"PK\x03\x04 cut"), "truncated or damaged"),
        (as_bytes(b"hello world, no weights"), "unknown format"),
        (as_gzip, "gzip"),
        (as_tar, "tar archive"),
        (as_npz, r"without the data\.pkl"),
        (as_torchscript, "TorchScript"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path, make, words):
    make(tmp_path / "w.pth")
    refused(tmp_path / "w.pth", words)


@pytest.mark.filterwarnings("ignore:.*quantiz.*", "ignore:.*TypedStorage.*", "ignore:Sparse")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.tensor([1.0, torch.inf]), r"NaN or infinity in a tensor, first \['bad'\]"),
        (lambda: torch.tensor([torch.nan]).expand(3), "NaN or infinity"),
        (lambda: torch.zeros(2, dtype=torch.complex64), r"holds bad as a tensor of torch\.complex64"),
        (lambda: torch.eye(2).to_sparse(), "holds sparse tensors"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "holds quantised tensors"),
        (lambda: torch.zeros(2, device="meta"), "holds tensors without values"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path, make, words, legacy):
    refused(write(tmp_path / "w.pth", {**STATE, "bad": make()}, legacy), words)


def test_infinity_outside_a_view_does_no_harm(tmp_path):
    view = torch.tensor([1.0, torch.nan])[:1]
    assert_exact(read_state_dict(write(tmp_path / "w.pth", {"x": view})), {"x": torch.ones(1)})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3}, r"holds no state dict: its keys are \['epoch'\]"),
        ([torch.ones(1)], "holds no state dict"),
        (torch.ones(1), "holds no state dict"),
        ({0: torch.ones(1)}, "holds a tensor under the key 0"),
        ({("a", 1): torch.ones(1)}, "which is not a name"),
    ],
)
def test_content_that_is_no_state_dict(tmp_path, content, words):
    refused(write(tmp_path / "w.pth", content), words)


def test_nesting_without_end(tmp_path):
    deep = b"\x80\x02" + b"(" * 50_000 + b"]" + b"t" * 50_000 + b"."  # a tuple in a tuple in ...

    def change(records):
        records[next(name for name in records if name.endswith("data.pkl"))] = deep

    refused(repacked(write(tmp_path / "w.pth", STATE), tmp_path / "deep.pth", change), "holds no state dict")
    keyed = deep[:2] + b"}" + deep[2:-1].replace(b"]", b")") + b"K\x01s."
    deep = keyed
    refused(repacked(tmp_path / "w.pth", tmp_path / "key.pth", change), "deep.pth|key.pth")
