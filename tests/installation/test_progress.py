"""What is shown of a compilation, and the remedy for one that failed."""

import pytest

from convnext_dense.installation.progress import explain_failure, progress_line, show_progress, tee


def test_progress_counts_objects(capsys):
    show_progress(iter(["  Running command\n", "  [1/77] c++ -c a.cpp\n", "[77/77] c++ -c b.cpp\n"]))
    first, last = capsys.readouterr().out.splitlines()
    assert first == "compiling mmcv: 1/77 objects, 0:00 elapsed"
    assert last.startswith("compiling mmcv: 77/77 objects")


def test_progress_estimates_the_rest():
    # 20 objects after the first took 100 s: 5 s each, 56 left
    assert progress_line(21, 77, 130, 100) == "compiling mmcv: 21/77 objects, 2:10 elapsed, about 4:40 left"


def test_every_line_is_in_the_log_before_the_next_is_read(tmp_path):
    log = tmp_path / "build.log"
    for line in tee(iter(["one\n", "two\n"]), log):
        assert log.read_text().endswith(line)


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("c++: fatal error: Killed signal terminated program cc1plus", "--jobs 1"),
        (
            "RuntimeError: The detected CUDA version (11.2) mismatches",
            "of the version torch was built with (13.0)",
        ),
        ("error: something else", "see the log"),
    ],
)
def test_failures_carry_their_remedy(tmp_path, line, remedy):
    log = tmp_path / "build.log"
    explained = explain_failure(["start", line, *["later"] * 50], log, "13.0")
    assert remedy in explained.splitlines()[-1]
    assert "nothing was replaced" in explained
    assert str(log) in explained
    assert line in explained
