"""Configs that the records say pass still pass: another sample each day."""

import datetime
import json
import os

import pytest
from repository import ROOT

from convnext_dense.mm.swap.survey import from_json, sample
from convnext_dense.mm.swap.survey_key import OPTIONAL, environment
from convnext_dense.mm.swap.verdict import Verdict, judge

SEED = "ZOO_SAMPLE"  # environment variable that repeats the sample of another day
SECONDS = 25  # of CPU time, as recorded; about 20 configs


def failing(verdicts: dict[str, Verdict], lacking: list[str]) -> list[str]:
    """What does not pass; where packages of the record are lacking, a config may fail as it is."""
    of_the_swap = {n: v for n, v in verdicts.items() if not (lacking and v.outcome == "fails as it is")}
    return [f"{name}: {v.outcome}, {v.reason}" for name, v in of_the_swap.items() if v.outcome != "passes"]


def test_a_sample_of_the_day_passes():
    here = environment()
    columns = map(from_json, json.loads((ROOT / "docs/zoo.json").read_text())["columns"])
    name = f"{here['line']}, {here['operators']} operators"
    column = next((each for each in columns if each.name == name), None)
    if column is None:
        pytest.skip(f"docs/zoo.json has no column for {name}")
    seed = os.environ.get(SEED) or datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    drawn = sample(column, seed, SECONDS)
    assert drawn, "no structure of the column passes"
    lacking = [name for name in OPTIONAL if name in column.environment and name not in here]
    print(f"{len(drawn)} structures; to repeat: {SEED}={seed}; lacking here: {lacking or 'nothing'}")
    tried: dict[str, str] = {}
    verdicts = {structure.name: judge(structure.name, tried) for structure in drawn}
    said = failing(verdicts, lacking)
    assert not said, "\n".join([f"to repeat: {SEED}={seed}", *said])


def test_what_counts_as_failing():
    verdicts = {
        "a": Verdict("passes", "", "", 1.0),
        "b": Verdict("fails as it is", "no skimage", "", 1.0),
        "c": Verdict("refused", "no pyramid", "", 1.0),
    }
    assert failing(verdicts, []) == ["b: fails as it is, no skimage", "c: refused, no pyramid"]
    assert failing(verdicts, ["scikit-image"]) == ["c: refused, no pyramid"]
