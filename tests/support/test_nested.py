"""One walk and one copy of nested containers, compared with lists written by hand."""

import pytest

pytest.importorskip("mmengine")  # whose configs are walked, too

from mmengine.config import ConfigDict
from mmengine.config.lazy import LazyObject

from convnext_dense.support.nested import mappings, rebuilt

TREE = {"id": "a", "x": [{"id": "b", "y": ({"id": "c"}, 1)}, [{"id": "d"}]], "z": {"id": "e"}}


def found(node: object, **options) -> list[tuple]:
    return [(path, mapping["id"]) for path, mapping in mappings(node, **options)]


@pytest.mark.parametrize("kind", [dict, ConfigDict])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [((), "a"), (("x", 0), "b"), (("x", 0, "y", 0), "c"), (("x", 1, 0), "d"), (("z",), "e")]),
        ({"keys": ("z", "x")}, [((), "a"), (("z",), "e"), (("x", 0), "b"), (("x", 1, 0), "d")]),
        ({"keys": ("absent",)}, [((), "a")]),
        ({"keys": ()}, [((), "a")]),
        (
            {"stop": lambda mapping: mapping["id"] == "b"},
            [((), "a"), (("x", 0), "b"), (("x", 1, 0), "d"), (("z",), "e")],
        ),
    ],
)
def test_every_mapping_with_its_path(kind, options, expected):
    assert found(kind(TREE), **options) == expected


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ([{"id": "a"}, {"id": "b", "x": {"id": "c"}}], [((0,), "a"), ((1,), "b")]),
        ([1, "text", None], []),
        ("text", []),
        (None, []),
    ],
)
def test_without_keys_only_one_or_those_of_a_list(node, expected):
    assert found(node, keys=()) == expected


def test_a_mapping_may_be_changed_when_it_is_yielded():
    tree = {"id": "a", "old": {"id": "b"}}
    seen = []
    for _, mapping in mappings(tree, stop=lambda mapping: mapping["id"] == "last"):
        seen.append(mapping["id"])
        if mapping["id"] == "a":
            mapping.pop("old")
            mapping["new"] = [{"id": "c", "x": {"id": "d"}}]
        if mapping["id"] == "c":
            mapping["id"] = "last"
    assert seen == ["a", "c"]


def test_lazy_objects_are_built_as_a_config_builds_them():
    config = ConfigDict(x=dict(type=LazyObject("pathlib", "Path")))
    assert [path for path, _ in mappings(config)] == [(), ("x",)]
    assert "pathlib" in repr(rebuilt(config)["x"]["type"].__module__)


def test_a_copy_changes_leaves_and_leaves_out_entries():
    copy = rebuilt(
        ConfigDict(a=(1, 2), b=dict(c="text", d=None, drop=5), drop=dict(a=1)),
        leaf=lambda value: value + 1 if isinstance(value, int) else value,
        keep=lambda key, value: key != "drop" and value is not None,
    )
    assert copy == {"a": [2, 3], "b": {"c": "text"}}
    assert type(copy["b"]) is dict
