"""Every resolved recipe, entry by entry, against the list in ``tests/assets/resolved_recipes.json``.

A base that many recipes inherit changes them all. This test says which entries of which recipes a change
of ``configs/`` moves. After an intended change,
``PYTHONPATH=tests/helpers python tests/recipes/test_resolved.py`` rewrites the list; its diff is the change.

Compared is what something reads: the keys that mmengine's runner takes from a config, and those that our
tools, mmengine, the toolboxes' inference or a child config read by name (``SETTINGS`` of
``tests/helpers/resolved.py``). Left out:

- ``VARIABLES`` of the same file, such as ``crop_size``, ``ratios`` or ``max_iters``: they help a config to
  state its settings, and nobody reads them afterwards;
- a top-level ``data_preprocessor``: the runner reads it only for a model that has none, and each has one;
- the order of keys, which decides nothing: hooks are ordered by priority, steps of a pipeline are a list.

The list was written when the bases were still mmdet's and mmseg's (without ``_scope_``, which mmengine then
wrote into every mapping, and which was the default scope). It changed once since: the types of the demos'
heads, RoI extractors and data preprocessor became this package's, as in all other recipes. In float32 they
compute the same numbers, which ``tests/numerics`` proves.
"""

import functools
import inspect
import json
import sys

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from repository import ASSETS
from resolved import RUNNER, SETTINGS, VARIABLES, Entries, differences, entries, grouped, ungrouped

from convnext_dense.mm.config.load import load_config
from convnext_dense.recipes import list_configs

ASSET = ASSETS / "resolved_recipes.json"


@functools.cache
def listed() -> dict[str, Entries]:
    return ungrouped(json.loads(ASSET.read_text()))


@functools.cache
def recipe(name: str) -> Config:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ROADMAP_STEP", raising=False)
        return load_config(name)


def test_the_list_has_every_recipe():
    assert sorted(listed()) == list_configs()


@pytest.mark.parametrize("name", list_configs())
def test_a_recipe_resolves_to_the_listed_entries(name):
    changed = differences(name, listed()[name], entries(recipe(name)))
    assert not changed, "\n" + "\n".join(changed)


@pytest.mark.parametrize("name", list_configs())
def test_every_key_is_a_setting_or_a_variable(name):
    assert set(recipe(name)) <= SETTINGS | VARIABLES


@pytest.mark.parametrize("name", list_configs())
def test_a_model_has_its_own_preprocessor(name):
    assert recipe(name).model.data_preprocessor.type


def test_every_variable_is_used():
    assert {key for name in list_configs() for key in recipe(name)} >= VARIABLES


def test_every_argument_of_the_runner_is_compared():
    arguments = set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg", "data_preprocessor"}
    assert arguments <= set(RUNNER)


CONFIG = dict(
    model=dict(heads=[dict(a=1), dict(a=(1, [2.0]))], neck={}),
    resume=False,
    crop_size=(512, 512),
)


def test_entries_are_leaves_of_settings():
    expected = {
        "model.heads.0.a": "1",
        "model.heads.1.a": "(1, [2.0])",
        "model.neck": "{}",
        "resume": "False",
    }
    assert entries(CONFIG) == expected


def test_an_entry_that_recipes_share_is_kept_once():
    recipes = {"a": {"x": "1", "y": "'a = b'"}, "b": {"x": "1", "y": "2"}, "c": {"x": "1"}}
    groups = grouped(recipes)
    assert [" ".join(group["recipes"]) for group in groups] == ["a b c", "a", "b"]
    assert groups[0]["entries"] == ["x = 1"]
    assert ungrouped(groups) == recipes


def test_a_difference_names_recipe_path_and_both_values():
    expected = {"model.a": "1", "model.b": "[1]", "model.c": "None"}
    found = {"model.a": "1", "model.b": "(1,)", "model.d": "2"}
    assert differences("demo/x", expected, found) == [
        "demo/x: model.b: expected [1], found (1,)",
        "demo/x: model.c: expected None, found no such entry",
        "demo/x: model.d: expected no such entry, found 2",
    ]


if __name__ == "__main__":
    groups = grouped({name: entries(recipe(name)) for name in list_configs()})
    ASSET.write_text(json.dumps(groups, indent=0) + "\n")
    sys.exit()
