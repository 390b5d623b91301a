"""What a check of the compatibility matrix proves, and the page. No environment is made here."""

import sys
from pathlib import Path

import pytest
from repository import ROOT

from convnext_dense.bench import compatibility as checks


@pytest.mark.parametrize(
    ("code", "proof", "passed", "detail"),
    [
        ("print('a'); print('fine')", "", True, "fine"),
        ("", "", True, ""),
        ("print('resumed, iter: 3'); print('end')", r"iter: \d", True, "end"),
        ("print('training anew')", r"iter: \d", False, r"no line with iter: \d"),
        ("print('error: no mmcv'); print('more'); raise SystemExit(1)", "", False, "error: no mmcv"),
        (
            "print('FAILED test_a - x'); print('FAILED test_b'); raise SystemExit(1)",
            "",
            False,
            "FAILED test_a - x (and 1 more)",
        ),
        ("raise KeyError('x')", "", False, "KeyError: 'x'"),
        ("import os; os.kill(os.getpid(), 9)", "", False, "no output"),
    ],
)
def test_a_check(tmp_path, code, proof, passed, detail):
    check = checks.Check("name", ("-c", code), proof)
    log = tmp_path / "logs" / "a.log"
    verdict = checks.run_check(check, Path(sys.executable), ROOT, log)
    assert (verdict.check, verdict.passed, verdict.detail) == ("name", passed, detail)
    assert log.is_file()


def test_every_test_folder_exists():
    for folder in (*checks.core_tests(), *checks.stack_tests()):
        assert (ROOT / folder).is_dir(), folder


def test_a_key_changes_with_the_code_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_text("1")
    (tmp_path / "c.py").write_text("2")
    key = checks.code_key(tmp_path, ("a", "c.py"))
    (tmp_path / "a" / "notes.txt").write_text("x")
    assert checks.code_key(tmp_path, ("a", "c.py")) == key
    (tmp_path / "a" / "test_b.py").write_text("x")
    assert checks.code_key(tmp_path, ("a", "c.py")) == key, "test modules have sums of their own"
    (tmp_path / "a" / "b.py").write_text("3")
    assert checks.code_key(tmp_path, ("a", "c.py")) != key


def test_a_changed_check_makes_verdicts_old(monkeypatch):
    key = checks.code_key(ROOT)
    monkeypatch.setattr(checks, "SWAPS", checks.SWAPS[:1])
    assert checks.code_key(ROOT) != key


def test_changed_test_modules_run_alone(tmp_path):
    folder = tmp_path / checks.core_tests()[0]
    folder.mkdir(parents=True)
    for name in ("test_a.py", "test_b.py", "helper.py"):
        (folder / name).write_text(name)
    sums = checks.test_sums(tmp_path, "core")
    names = [f"{checks.core_tests()[0]}/test_{letter}.py" for letter in "abc"]
    assert list(sums) == names[:2]
    tests = checks.Verdict("tests", True, 9.0, "12 passed in 9s")
    record = checks.record_of("core", "key", sums, "2026-01-02", {}, [tests])
    assert checks.changed_tests(record, "key", sums) == []
    assert (
        checks.changed_tests(record, "other", sums) is None
        and checks.changed_tests(None, "key", sums) is None
    )
    for letter in "bc":
        (folder / f"test_{letter}.py").write_text("new")
    (folder / "test_a.py").unlink()
    sums = checks.test_sums(tmp_path, "core")
    assert checks.changed_tests(record, "key", sums) == names[1:]
    name = checks.tests_again(names[1:]).name
    failed = checks.updated(record, sums, "2026-01-03", checks.Verdict(name, False, 1.0, "FAILED test_b"))
    assert [check["detail"] for check in checks.failed_checks(failed)] == ["FAILED test_b"]
    again = checks.Verdict(name, True, 1.0, "2 passed in 1s")
    record = checks.updated(record, sums, "2026-01-03", again)
    assert checks.failed_checks(record) == []
    assert checks.changed_tests(record, "key", sums) == [] and record["date"] == "2026-01-03"
    assert checks.tests_of(record) == "0 checks; tests: 12 passed in 9s; changed ones again: 2 passed in 1s"
    assert len(checks.updated(record, sums, "2026-01-04", again)["checks"]) == 2


def test_the_page_tells_what_failed_on_which_code():
    good = checks.Verdict("tests", True, 9.0, "12 passed, 1 skipped in 9s")
    bad = checks.Verdict("doctor", False, 1.0, "fail  mmcv  a|b")
    versions = {"python": "3.11", "torch": "2.6"}
    record = checks.record_of("one", "now", {}, "2026-01-02", versions, [good, bad])
    older = dict(record, row="two", code="before", checks=[record["checks"][0]])
    page = checks.page(
        {"one": record, "two": older}, {"one": "first", "two": "second", "three": "third"}, ["one"]
    )
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| **")}
    assert "1 of 2 checks fail" in rows["**one**: first"] and "2026-01-02 |" in rows["**one**: first"]
    assert "works" in rows["**two**: second"] and "on older code" in rows["**two**: second"]
    assert "not measured" in rows["**three**: third"]
    assert "- **doctor** fails: fail  mmcv  a|b" in page
    assert "python 3.11, torch 2.6" in page
