"""Entries packed in one array: equal to what was packed, shared by processes, and never code."""

import collections
import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from convnext_dense.data.packed_entries import (
    NotPlainError,
    PackedFileError,
    pack,
    pack_entries,
    read_entries,
    unpack,
    write_entries,
)

ENTRIES = [
    dict(img_path=f"a/{i}.jpg", height=3, boxes=[[1.5, 2.0]] * i, rle=b"\x00\xff", none=None, pair=(1, "é"))
    for i in range(5)
]


@pytest.fixture
def file(tmp_path):
    write_entries(tmp_path / "e.safetensors", pack_entries(ENTRIES), dict(names=["x"]), "key")
    return tmp_path / "e.safetensors"


def test_what_was_packed_comes_back(file):
    entries, rest = read_entries(file, "key")
    assert rest == dict(names=["x"])
    assert list(entries) == ENTRIES and len(entries) == 5 and entries[-1] == ENTRIES[-1]
    assert list(entries[1:3]) == ENTRIES[1:3] and list(entries[::-2]) == ENTRIES[::-2]
    with pytest.raises(IndexError):
        entries[5]
    assert type(entries[1]["pair"]) is tuple and type(entries[1]["boxes"]) is list


def test_a_copy_of_an_entry_is_a_plain_dictionary_of_its_own(file):
    """mmengine copies an entry and then changes it."""
    entries, _ = read_entries(file, "key")
    mine = copy.deepcopy(entries[2])
    assert type(mine) is dict
    mine["boxes"].append("changed")
    assert entries[2] == ENTRIES[2]


def test_another_process_maps_the_file_itself(file):
    entries, _ = read_entries(file, "key")
    content = pickle.dumps(entries)
    assert len(content) < 2000 and ENTRIES[1]["img_path"].encode() not in content
    assert list(pickle.loads(content)) == ENTRIES
    assert list(pickle.loads(pickle.dumps(entries[1:3]))) == ENTRIES[1:3]
    assert list(pickle.loads(pickle.dumps(pack_entries(ENTRIES)))) == ENTRIES  # without a file


@pytest.mark.skipif(os.name == "nt", reason="modes")
def test_others_may_read_the_file_as_any_other(file, tmp_path):
    (tmp_path / "usual").touch()
    assert file.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_no_entries_at_all(tmp_path):
    write_entries(tmp_path / "e", pack_entries([]), None, "k")
    assert list(read_entries(tmp_path / "e", "k")[0]) == []


def test_pycocotools_index_keeps_its_kind():
    index = unpack(pack(collections.defaultdict(list, {1: [2]})))
    assert index[1] == [2] and index[7] == []


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("true",)


@pytest.mark.parametrize(
    "value", [np.float32(1), np.zeros(2), Path("x"), print, int, Evil(), [{1: object()}]]
)
def test_only_plain_values_are_packed(value):
    with pytest.raises(NotPlainError):
        pack(value)


@pytest.mark.parametrize("value", [np.float32(1), Evil(), print])
def test_only_plain_values_are_read(value, tmp_path):
    content = pickle.dumps(value)
    with pytest.raises(PackedFileError, match="only plain values"):
        unpack(content)


def test_a_file_with_code_in_it_is_refused(tmp_path):
    import torch

    entries = pack_entries(ENTRIES)
    evil = torch.frombuffer(bytearray(pickle.dumps(Evil())), dtype=torch.uint8)
    tensors = dict(content=torch.tensor(entries.content), spans=torch.tensor(entries.spans), rest=evil)
    save_file(tensors, tmp_path / "e", metadata=dict(key="key"))
    with pytest.raises(PackedFileError, match=r"posix\.system|nt\.system"):
        read_entries(tmp_path / "e", "key")


def damaged(content: bytes) -> list[bytes]:
    middle = len(content) // 2
    return [b"", content[:middle], content[:-1], b"\xff" * 8 + content[8:], content[8:]]


@pytest.mark.parametrize("case", range(5))
def test_a_damaged_file_is_refused(case, file):
    file.write_bytes(damaged(file.read_bytes())[case])
    with pytest.raises(PackedFileError):
        read_entries(file, "key")


def test_damaged_bytes_never_end_in_another_error(file):
    whole = file.read_bytes()
    rest = whole.rindex(pack(dict(names=["x"])))
    refused = 0
    for place in range(rest, rest + len(pack(dict(names=["x"])))):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read_entries(file, "key")
        except PackedFileError:
            refused += 1
    assert refused > 5


def test_a_file_of_something_else_is_refused(file):
    with pytest.raises(PackedFileError, match="other annotations or by other code"):
        read_entries(file, "another key")
