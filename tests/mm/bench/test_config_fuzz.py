"""No mistake in a config ends in a traceback of ours: a few kinds here, more among the slow tests."""

import random

import pytest

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.apis.train import TrainOptions
from convnext_dense.mm.bench.config_fuzz import mutate, places, try_mutations, verdict_of

FAST = ["demo/mask_rcnn_shapes", "demo/upernet_shapes"]
SLOW = ["demo/mask_rcnn_shapes", "cascade/convnext_t_3x", "upernet/convnext_t_512_160k"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    make_shapes(root := tmp_path_factory.mktemp("fuzz") / "shapes", train=2, val=2, size=64)
    return root


def root_of(shapes, recipe: str) -> str:
    return str(shapes / ("ade20k" if "upernet" in recipe else "coco"))


@pytest.mark.parametrize("recipe", FAST)
def test_mistakes_in_a_demo_recipe_are_explained(recipe, shapes, tmp_path):
    options = TrainOptions(data_root=root_of(shapes, recipe), work_dir=str(tmp_path / "run"), device="cpu")
    assert verdict_of(recipe, options) == ("accepted", "")
    found = try_mutations(recipe, 3, options.data_root, tmp_path, seed=1)
    assert not found.unexplained and sum(found.counts.values()) == 3


@pytest.mark.parametrize("recipe", SLOW)
def test_many_mistakes_are_explained(recipe, shapes, tmp_path):
    found = try_mutations(recipe, 15, root_of(shapes, recipe), tmp_path)
    assert not found.unexplained
    assert found.counts["explained"] > 3
    lists = ("layout expected", "the data cannot be used:")  # a line per fault of the files
    assert all("\n" not in line or any(head in line for head in lists) for _, line in found.explained)


def test_a_mutation_is_one_mistake_and_leaves_the_config_alone():
    whole = dict(model=dict(type="A", steps=[dict(type="B", size=(1, 2))]), lr=0.1)
    before = repr(whole)
    kinds = set()
    for seed in range(200):
        mutated, what = mutate(whole, random.Random(seed))
        kinds.add(what.split(" ")[0] == "no")
        assert repr(whole) == before and what
        changed = {p for p in places(mutated)} ^ {p for p in places(whole)}
        assert len({path[:1] for path in changed}) <= 2
    assert kinds == {True, False}
