"""A survey keeps its verdicts with their key, goes on where it stopped, and outlives its processes."""

import json

import pytest

from convnext_dense.mm.swap import survey
from convnext_dense.mm.swap.structures import Structure
from convnext_dense.mm.swap.survey import (
    Column,
    append_verdict,
    from_json,
    read_verdicts,
    run_survey,
    to_json,
)
from convnext_dense.mm.swap.verdict import Verdict

PASSES = Verdict("passes", "", "t", 1.0)
ONE = Structure("1", "ResNet", ("mmdet::a.py", "mmdet::b.py"))
TWO = Structure("2", "-", ("mmseg::c.py",))
COLUMN = Column(
    *("2026-01-02", {"line": "onedl", "operators": "portable"}, {"m": "0"}),
    *([ONE, TWO], [("mmdet::no.py", "has no model")], {"1": PASSES}),
)


def test_a_column_survives_json():
    record = json.loads(json.dumps(to_json(COLUMN)))
    assert from_json(record) == COLUMN
    assert COLUMN.name in survey.COLUMNS and not COLUMN.complete
    record["code"]["m"] = "1"
    with pytest.raises(ValueError, match="the key is"):
        from_json(record)


def test_a_running_record_gives_only_verdicts_of_its_key(tmp_path):
    path = tmp_path / "running.jsonl"
    assert read_verdicts(path, "k") == {}
    append_verdict(path, "k", ONE, PASSES)
    append_verdict(path, "older code", TWO, PASSES)
    append_verdict(path, "k", TWO, PASSES._replace(outcome="fails"))
    text = path.read_text()
    path.write_text(text[:-20])  # cut off while it was written
    assert read_verdicts(path, "k") == {"1": PASSES}
    path.write_text(text)
    assert read_verdicts(path, "k") == {"1": PASSES, "2": PASSES._replace(outcome="fails")}


def test_what_did_not_pass_before_comes_first():
    structures = [ONE, TWO, Structure("3", "-", ("x",)), Structure("4", "-", ("y",))]
    column = COLUMN._replace(structures=structures)
    refused = PASSES._replace(outcome="refused")
    assert survey.waiting(column, {}) == structures[1:]
    assert [s.digest for s in survey.waiting(column, {"2": PASSES, "3": refused})] == ["3", "4", "2"]


def test_which_trials_are_known():
    verdicts = {
        "1": PASSES,
        "2": Verdict("fails", "it breaks", "u", 1.0),
        "3": Verdict("fails as it is", "of the old model", "v", 1.0),
        "4": Verdict("refused", "no pyramid", "", 1.0),
        "5": Verdict("fails", "the swap ends in KeyError: 'x'", "", 1.0),
    }
    assert survey.tried_before(COLUMN._replace(verdicts=verdicts)) == {"t": "", "u": "it breaks"}


def column_of(outcomes: dict[str, str], trial: str = "") -> Column:
    structures = [Structure(digest, "ResNet", (digest,)) for digest in outcomes]
    verdicts = {d: Verdict(outcome, "", trial or d, 3.0) for d, outcome in outcomes.items()}
    return COLUMN._replace(structures=structures, verdicts=verdicts)


def test_a_sample_is_drawn_by_seed_among_those_that_pass():
    column = column_of({str(i): "refused" if i % 3 else "passes" for i in range(90)})
    drawn = survey.sample(column, "2026-01-02", seconds=20)
    assert len(drawn) == len(set(drawn)) == 6  # of 3 s each
    assert all(int(structure.digest) % 3 == 0 for structure in drawn)
    assert (
        drawn
        == survey.sample(column, "2026-01-02", seconds=20)
        != survey.sample(column, "2026-01-03", seconds=20)
    )
    assert len(survey.sample(column, "", seconds=1e3)) == 30


def test_a_sample_counts_a_trial_at_its_first_cost():
    column = column_of({str(i): "passes" for i in range(9)}, trial="t")
    quick = {
        digest: verdict._replace(seconds=0.1) for digest, verdict in column.verdicts.items() if digest != "0"
    }
    column = column._replace(verdicts={**column.verdicts, **quick})
    assert len(survey.sample(column, "", seconds=7)) == 2


@pytest.mark.parametrize(
    ("exitcode", "verdict"), [(-11, "fails"), (-6, "fails"), (-9, None), (-15, None), (1, None)]
)
def test_only_a_crash_of_its_own_is_a_verdict(exitcode, verdict):
    found = survey.crash_verdict(exitcode, "why")
    assert (found and found.outcome) == verdict


REFUSED = "mmdet::detectors/detectors_htc-r50_1x_coco.py"


def test_a_process_judges_until_it_ends():
    process = survey._Process({})
    assert process.judge(REFUSED).outcome == "refused"
    process.process.kill()
    with pytest.raises(survey.DiedError, match="exit code -9"):
        process.judge(REFUSED)


def test_processes_judge_all_structures():
    structures = [Structure("1", "", (REFUSED,)), Structure("2", "", ("mmdet::nowhere.py",))]
    found = dict(run_survey(structures, {}, jobs=1))
    assert found[structures[0]].outcome == "refused"
    assert found[structures[1]].outcome == "fails" and "nowhere.py" in found[structures[1]].reason
