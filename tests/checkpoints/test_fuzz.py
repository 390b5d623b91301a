"""1000 damaged checkpoints: each gives a one-line error or loads exactly what its bytes contain."""

import collections
import io
import json
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import torch

from convnext_dense import CheckpointError, ConvNeXt, load_checkpoint

MICRO = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
FILES_PER_FORMAT = {"zip": 340, "legacy": 330, "safetensors": 330}


def backbone(seed):
    """Random values under the released names, without output norms."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(value.shape, generator=generator)
        for key, value in ConvNeXt(MICRO).state_dict().items()
        if not key.startswith("norm")
    }


def serialised(state, kind):
    if kind == "safetensors":
        return pytest.importorskip("safetensors.torch").save(state)
    buffer = io.BytesIO()
    torch.save({"model": state}, buffer, _use_new_zipfile_serialization=kind == "zip")
    data = buffer.getvalue()
    if kind == "legacy":  # its storages are named by their address in memory: the same names in every run
        *_, keys = pickles_of(io.BytesIO(data))
        for index, key in enumerate(keys):
            data = data.replace(key.encode(), f"{index:0{len(key)}}".encode())
    return data


# ---- what the bytes contain, read without the package and without torch.load


def says_safetensors(data):
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body, types = data[8 + length :], {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I32": "<i4"}
    return {
        key: np.frombuffer(body[slice(*row["data_offsets"])], types[row["dtype"]]).reshape(row["shape"])
        for key, row in header.items()
        if key != "__metadata__"
    }


class Describes(pickle._Unpickler):
    """Reads the pickles of torch.save; a tensor becomes (key of its storage, offset, size, stride)."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *rest: (storage, offset, size, stride)
        return f"{module}.{name}"

    def persistent_load(self, pid):
        assert pid[:2] == ("storage", "torch.FloatStorage")
        return pid[2]


def pickles_of(file):
    return [Describes(file).load() for _ in range(5)]


def says_legacy(data):
    file = io.BytesIO(data)
    *_, content, keys = pickles_of(file)
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        # torch compares the size in bytes modulo 2**64: the top two bits of a count of floats do not matter
        storages[key] = np.frombuffer(file.read(4 * count % 2**64), "<f4")
    return as_arrays(content, storages)


def says_zip(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # compares checksums
        root = archive.namelist()[0].partition("/")[0]
        content = Describes(archive.open(f"{root}/data.pkl")).load()
        keys = {storage for storage, *_ in content["model"].values()}
        storages = {key: np.frombuffer(archive.read(f"{root}/data/{key}"), "<f4") for key in keys}
    return as_arrays(content, storages)


def as_arrays(content, storages):
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[storage][offset:], size, [4 * step for step in stride], writeable=False
        )
        for name, (storage, offset, size, stride) in content["model"].items()
    }


# ---- damage


def flip(data, donor, state, kind, rng):
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_structure(data, donor, state, kind, rng):
    """Bits of the description of the tensors, which is a small part of the file."""
    changed = bytearray(data)
    regions = {"zip": ((0, 12_000), (len(data) - 6_000, len(data))), "legacy": ((0, 9_000),)}
    start, end = rng.choice(regions.get(kind, ((0, 3_500),)))
    for _ in range(rng.choice((1, 2))):
        changed[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data, donor, state, kind, rng):
    return data[: rng.randrange(len(data))]


def splice(data, donor, state, kind, rng):
    """Bytes of another checkpoint of the same layout, at the same place or elsewhere."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((4, 64, 1024, 20_000)))
    source = rng.choice((start, rng.randrange(len(donor))))
    return data[:start] + donor[source : source + end - start] + data[end:]


def change_keys(data, donor, state, kind, rng):
    """Names that are removed, renamed or exchanged."""
    first, second = rng.sample(sorted(state), 2)
    state = dict(state)
    action = rng.choice(("remove", "rename", "exchange"))
    if action == "exchange":
        state[first], state[second] = state[second], state[first]
    else:
        value = state.pop(first)
        if action == "rename":
            state[first.replace("weight", "weights").replace("bias", "biases")] = value
    return serialised(state, kind)


DAMAGES = (flip, flip_structure, truncate, splice, change_keys)


# what the bytes hold, as numpy arrays
SAYS = {"zip": says_zip, "legacy": says_legacy, "safetensors": says_safetensors}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FILES_PER_FORMAT)
def test_damaged_files_end_in_one_line_or_load_exactly(tmp_path, kind):
    rng = random.Random(kind)
    state = backbone(0)
    data, donor = serialised(state, kind), serialised(backbone(1), kind)
    model = ConvNeXt(MICRO)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / "w.pth"
    counts = collections.Counter()
    for index in range(FILES_PER_FORMAT[kind]):
        damage = DAMAGES[index % len(DAMAGES)]
        changed = damage(data, donor, state, kind, rng)
        path.write_bytes(changed)
        where = f"{kind} file {index}, {damage.__name__}"
        try:
            load_checkpoint(model, str(path))
        except CheckpointError as error:
            outcome, wanted = "error", before
            assert "\n" not in str(error) and "w.pth" in str(error), where
        else:
            outcome = "exact load"
            held = SAYS[kind](changed)
            wanted = {**before, **{key: torch.from_numpy(value.copy()) for key, value in held.items()}}
        own = model.state_dict()
        assert own.keys() == wanted.keys(), where
        assert all(torch.equal(own[key], wanted[key]) for key in own), f"{where}: {outcome}, but other values"
        counts[damage.__name__, outcome] += 1
        model.load_state_dict(before)
    print(
        f"\n{kind}: {len(data)} bytes,",
        ", ".join(f"{'/'.join(key)} {n}" for key, n in sorted(counts.items())),
    )
    assert all(counts[damage.__name__, "error"] for damage in DAMAGES), counts
    assert sum(n for (_, outcome), n in counts.items() if outcome == "exact load") >= 1, counts


@pytest.mark.parametrize("kind", SAYS)
def test_the_oracle_reads_undamaged_files(kind):
    state = backbone(0)
    held = SAYS[kind](serialised(state, kind))
    assert held.keys() == state.keys()
    assert all(np.array_equal(held[key], value.numpy()) for key, value in state.items())
