"""A survey keeps its verdicts with their key, goes on where it stopped, and outlives its processes."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

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


REFUSED = "mmseg::san/san-vit-b16_coco-stuff164k-640x640.py"


def test_a_process_judges_until_it_ends():
    process = survey._Process()
    assert process.judge(REFUSED, {}).outcome == "refused"
    process.process.kill()
    with pytest.raises(survey.DiedError, match="exit code -9"):
        process.judge(REFUSED, {})


RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"


def test_processes_judge_all_structures_and_share_trials():
    names = [REFUSED, "mmdet::nowhere.py", RETINANET]
    structures = [Structure(name, "", (name,)) for name in names]
    tried: dict[str, str] = {}
    found = dict(run_survey(structures, tried, jobs=1))
    refused, failed, passed = (found[structure] for structure in structures)
    assert refused.outcome == "refused"
    assert failed.outcome == "fails" and "nowhere.py" in failed.reason
    assert passed.outcome == "passes" and tried == {passed.trial: ""}
    tried[passed.trial] = "known"
    assert dict(run_survey(structures[2:], tried, jobs=1))[structures[2]].reason == "known"


class FakeProcess:
    """Answers without a process, all but the first only when it may."""

    may = threading.Event()
    judged = 0

    def __init__(self, memory: int) -> None:
        self.answer = PASSES

    def judge(self, name: str, tried: dict) -> Verdict:
        self.judged += 1
        if self.judged > 1:
            self.may.wait()
        return self.answer


def test_an_interruption_leaves_the_rest_unjudged(monkeypatch):
    class Pool(ThreadPoolExecutor):
        def shutdown(self, **kwargs) -> None:
            super().shutdown(wait=False, **kwargs)
            FakeProcess.may.set()
            super().shutdown()

    made: list[FakeProcess] = []
    monkeypatch.setattr(survey, "_Process", lambda memory: made.append(FakeProcess(memory)) or made[-1])
    monkeypatch.setattr(survey, "ThreadPoolExecutor", Pool)
    results = run_survey([Structure(str(i), "", (str(i),)) for i in range(50)], {}, jobs=1)
    assert next(results)[1] == PASSES
    results.close()  # as an exception in the loop over it does
    assert len(made) == 1 and made[0].judged <= 2  # the second had perhaps begun


def test_a_model_that_lacks_memory_has_no_verdict(monkeypatch):
    class Small(FakeProcess):
        def __init__(self, memory: int) -> None:
            self.answer = PASSES._replace(
                outcome="fails", reason=f"RuntimeError: DefaultCPUAllocator: can't allocate memory, {memory}"
            )

    monkeypatch.setattr(survey, "_Process", Small)
    assert list(run_survey([ONE], {}, jobs=1)) == [(ONE, None)]
