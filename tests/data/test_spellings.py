"""Texts and names as Windows and macOS write them."""

import codecs

import pytest

from convnext_dense.data.spellings import existing, has_byte_order_mark, read_json, read_text
from convnext_dense.errors import DataError


@pytest.mark.parametrize(
    "content",
    ["å\n".encode(), codecs.BOM_UTF8 + "å\n".encode(), codecs.BOM_UTF16_LE + "å\n".encode("utf-16-le")],
)
def test_a_text_is_read_without_its_mark(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert read_text(path) == "å\n"
    assert has_byte_order_mark(path) == (content[0] in b"\xef\xff")


def test_json_with_a_mark_and_what_is_no_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(codecs.BOM_UTF8 + b'["a"]\r\n')
    assert read_json(path) == ["a"]
    path.write_bytes(b'["\xe5"]')
    with pytest.raises(DataError, match=r"a\.json is not text in UTF-8 .* at byte 2"):
        read_json(path)


@pytest.mark.parametrize(
    ("name", "there", "expected"),
    [
        ("a/b.jpg", "other", "a/b.jpg"),
        ("a\\b.jpg", "a/b.jpg", "a/b.jpg"),
        ("a\\b.jpg", "a\\b.jpg", "a\\b.jpg"),  # a legal name on Linux
        ("a\\b.jpg", "other", "a\\b.jpg"),
        ("a\\caf\u00e9.jpg", "a/cafe\u0301.jpg", "a/cafe\u0301.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg", "caf\u00e9.jpg"),
    ],
)
def test_the_spelling_that_exists(name, there, expected):
    assert existing(name, {there}.__contains__) == expected
