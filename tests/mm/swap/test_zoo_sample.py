"""Configs that the records say pass still pass: another sample each day."""

import datetime
import json
import os

import pytest
from repository import ROOT

from convnext_dense.mm.swap.survey import from_json, sample
from convnext_dense.mm.swap.survey_key import environment
from convnext_dense.mm.swap.verdict import judge

SEED = "ZOO_SAMPLE"  # environment variable that repeats the sample of another day
SECONDS = 25  # of CPU time, as recorded; about 20 configs


def test_a_sample_of_the_day_passes():
    here = environment()
    columns = map(from_json, json.loads((ROOT / "docs/zoo.json").read_text())["columns"])
    mine = [
        each
        for each in columns
        if (each.environment["line"], each.environment["operators"]) == (here["line"], here["operators"])
    ]
    if not mine:
        pytest.skip(f"docs/zoo.json has no column for {here['line']}, {here['operators']} operators")
    seed = os.environ.get(SEED) or datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    drawn = sample(mine[0], seed, SECONDS)
    print(f"{len(drawn)} structures; to repeat: {SEED}={seed}")
    assert drawn, "no structure of the column passes"
    tried: dict[str, str] = {}
    verdicts = {structure.name: judge(structure.name, tried) for structure in drawn}
    failing = [f"{name}: {v.outcome}, {v.reason}" for name, v in verdicts.items() if v.outcome != "passes"]
    assert not failing, "\n".join([f"to repeat: {SEED}={seed}", *failing])
