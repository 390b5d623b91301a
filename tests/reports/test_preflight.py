"""The arithmetic of a preflight against figures worked out by hand."""

import pytest

from convnext_dense.reports.preflight import (
    GIB,
    NAMED,
    Disk,
    Length,
    Line,
    Pace,
    Report,
    duration,
    evaluations,
    gib,
    largest_batch,
    memory_line,
    regular_checkpoints,
    run_seconds,
)

# ---- memory


@pytest.mark.parametrize(
    ("measured", "fixed", "per_image"),
    [
        ({1: 300, 2: 500}, 100, 200),
        ({2: 700, 8: 1900}, 300, 200),  # 1200 bytes more for 6 images
        ({1: 300, 4: 900, 2: 1}, 100, 200),  # the ends count
        ({1: 100, 2: 300}, 0, 150),  # the line would begin below nothing
    ],
)
def test_memory_line(measured, fixed, per_image):
    assert memory_line(measured) == Line(fixed, per_image)


@pytest.mark.parametrize("measured", [{}, {2: 100}, {1: 300, 2: 300}, {1: 300, 2: 200}])
def test_no_line_without_growth(measured):
    assert memory_line(measured) is None


@pytest.mark.parametrize(
    ("line", "free", "usable", "images"),
    [
        (Line(2 * GIB, 3 * GIB), 20 * GIB, 1.0, 6),
        (Line(2 * GIB, 3 * GIB), 20 * GIB, 0.9, 5),  # 18 GiB: 2 + 5 x 3 = 17
        (Line(2 * GIB, 3 * GIB), 2 * GIB, 1.0, 0),
        (Line(2 * GIB, 3 * GIB), GIB, 1.0, 0),  # less than what does not depend on the batch
    ],
)
def test_largest_batch(line, free, usable, images):
    assert largest_batch(line, free, usable) == images
    assert line.at(images) <= free * usable or images == 0
    assert line.at(images + 1) > free * usable


# ---- time


def test_hours_of_the_published_coco_schedule():
    """7330 iterations x 36 epochs at 1 s, and 36 times 5000 images at 0.1 s on 8 GPUs."""
    training, most, evaluating = run_seconds(Pace(1.0, image=0.1), Length(7330 * 36, 1, 36, 625))
    assert (training, most) == (263_880, 263_880)
    assert evaluating == pytest.approx(2250)
    assert duration(training) == "3.1 days"


@pytest.mark.parametrize(
    ("pace", "usual", "most", "starved"),
    [
        (Pace(2.0, 0.5), 1.0, 2.0, False),
        (Pace(2.0, 0.5, loading=0.25), 1.0, 2.0, False),  # after the training
        (Pace(2.0, 0.5, loading=0.25, overlap=False), 1.25, 2.25, False),  # one after the other
        (Pace(2.0, 0.5, loading=1.5), 1.5, 2.0, True),
        (Pace(2.0, 0.5, loading=3.0), 3.0, 3.0, True),
    ],
)
def test_training_and_loading(pace, usual, most, starved):
    assert run_seconds(pace, Length(10, 4))[:2] == (40 * usual, 40 * most)
    assert pace.starved is starved


@pytest.mark.parametrize(
    ("end", "interval", "begin", "count"),
    [
        (36, 1, 1, 36),
        (160_000, 16_000, 1, 10),
        (10, 4, 1, 3),  # after 4, 8 and the last
        (10, 4, 5, 2),
        (10, 20, 1, 1),
        (10, 4, 11, 0),
    ],
)
def test_evaluations(end, interval, begin, count):
    assert evaluations(end, interval, begin) == count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.25 s"),
        (42.4, "42 s"),
        (600, "10 min"),
        (5400, "1.5 h"),
        (47 * 3600, "47.0 h"),
        (180_000, "2.1 days"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


# ---- disk


@pytest.mark.parametrize(
    ("length", "interval", "keep", "recent", "last", "count"),
    [
        (36, 1, 3, True, True, 4),
        (36, 1, -1, False, True, 36),
        (160_000, 16_000, 2, False, True, 2),
        (10, 4, -1, False, True, 3),  # 4, 8 and the last
        (10, 4, -1, False, False, 2),
        (10, 20, -1, True, True, 2),
        (10, -1, 3, True, True, 1),
    ],
)
def test_regular_checkpoints(length, interval, keep, recent, last, count):
    assert regular_checkpoints(length, interval, keep, recent, last) == count


def test_disk_holds_the_new_checkpoint_beside_the_old_ones():
    assert Disk(whole=500, weights=200, regular=4, best=1).most == 5 * 500 + 200


def test_gib():
    assert (gib(2.5 * GIB), gib(3 * 2**20)) == ("2.5 GiB", "3.0 MiB")


# ---- report


def test_verdict_lists_problems_with_their_remedy():
    lines: list[str] = []
    report = Report(lines.append)
    report.say("shape", "800x1344")
    assert report.ready
    assert report.verdict() == "ready"
    report.warn("loading", "slow: more workers")
    assert report.verdict() == "ready, 1 warning"
    report.problem("data", "2 broken: repair", {"a.jpg": "empty", "b.jpg": "truncated"})
    report.problem("memory", "too large: lower it")
    assert not report.ready
    assert report.verdict().splitlines() == [
        "not ready: 2 problems, 1 warning",
        "  data: 2 broken: repair",
        "  memory: too large: lower it",
    ]
    assert [line.split()[0] for line in lines] == ["shape", "warning", "PROBLEM", "b.jpg", "PROBLEM"]


def test_many_files_are_counted():
    lines: list[str] = []
    Report(lines.append).warn("train", "12 broken", {f"{i:02}.jpg": "" for i in range(12)})
    named = [line.strip() for line in lines[1:]]
    assert named[:-1] == [f"{i:02}.jpg" for i in range(1, NAMED)]  # the first is in the line itself
    assert named[-1] == f"and {12 - NAMED} more"
