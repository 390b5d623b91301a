"""Where the time of a step goes."""

import pytest

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.errors import DatasetNotFoundError, UserError
from convnext_dense.mm.bench import step_profile

SHARED = {
    "backbone",
    "FPN",
    "RPN convolutions",
    "RPN proposals with NMS",
    "RoIAlign",
    "box heads",
    "mask heads",
}


def test_a_part_is_booked_without_those_inside_it(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 10.0])  # the inner one from 1 to 3
    monkeypatch.setattr(step_profile.time, "process_time", lambda: next(times))
    clock = step_profile.Clock()
    assert clock.timed("outer", clock.timed("inner", lambda x: x + 1))(1) == 2
    assert clock.seconds == {"outer": 8.0, "inner": 2.0}


@pytest.mark.parametrize(
    ("evaluation", "own"),
    [(False, {"backward", "AdamW", "assignment", "box targets and losses"}), (True, {"mask paste", "rest"})],
)
def test_all_parts_of_a_detector_are_booked(tmp_path, evaluation, own):
    make_shapes(tmp_path, train=2, val=2, size=64)
    seconds = step_profile.profile("demo/mask_rcnn_shapes", str(tmp_path / "coco"), evaluation, 1)
    assert SHARED | own <= set(seconds)
    assert all(value >= 0 for value in seconds.values()) and seconds["backbone"] > 0


@pytest.mark.parametrize(
    ("row", "images", "error", "words"),
    [
        ("mask_rcnn/convnext_t_3x", 1, DatasetNotFoundError, "--data-root"),
        ("mask_rcnn/convnext_t_3x", 0, UserError, "--steps 0: at least 1"),
    ],
)
def test_what_cannot_be_profiled(tmp_path, row, images, error, words):
    with pytest.raises(error, match=words):
        step_profile.profile(row, str(tmp_path), False, images)
