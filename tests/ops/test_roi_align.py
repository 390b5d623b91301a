"""RoIAlign against hand-computed numbers, a loop over samples, and finite differences."""

import itertools
import sys
from functools import partial

import pytest
import torch
from op_cases import ROI_CASES, features_like, loop_roi_align, random_rois

from convnext_dense.ops import roi_align, roi_align_backward

pytestmark = pytest.mark.usefixtures("portable")
OPTIONS = list(itertools.product((7, 14, (5, 3)), (0, 1, 2, 3), (True, False)))


@pytest.mark.parametrize(
    ("aligned", "expected"),
    [
        # f(y, x) = 10 y + x. Bins are 1 cell, their centres at 1 and 2 cells from the corner (1, 1), less
        # half a cell if aligned; the mean of a linear function over a symmetric grid is its centre value.
        (True, [[11.0, 12.0], [21.0, 22.0]]),
        (False, [[16.5, 17.5], [26.5, 27.5]]),
    ],
)
def test_linear_ramp_by_hand(aligned, expected):
    ramp = (10 * torch.arange(5.0)[:, None] + torch.arange(6.0))[None, None]
    roi = torch.tensor([[0.0, 2.0, 2.0, 6.0, 6.0]])
    for ratio in (0, 1, 2):
        assert roi_align(ramp, roi, 2, 0.5, ratio, aligned)[0, 0].tolist() == expected


def test_samples_beyond_the_border_by_hand():
    ones = torch.ones(1, 1, 4, 4)
    # One row of 4 bins, one sample each, at x = -2, -1, 0, 1 (row 1): only the first is too far out.
    roi = torch.tensor([[0.0, -2.5 + 0.5, 1.0, 1.5 + 0.5, 2.0]])
    assert roi_align(ones, roi, (1, 4), 1.0, 1, True).flatten().tolist() == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ROI_CASES)
def test_equals_the_loop(name):
    shape, rois, scale = ROI_CASES[name]
    x, rois = features_like(shape, torch.float64), rois.double()
    for size, ratio, aligned in OPTIONS:
        if name == "far larger than the map" and size == 14:
            continue  # seconds in the loop
        size = (size, size) if isinstance(size, int) else size
        expected = loop_roi_align(x, rois, size, scale, ratio, aligned)
        torch.testing.assert_close(
            roi_align(x, rois, size, scale, ratio, aligned), expected, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.half, 2e-3), (torch.bfloat16, 1e-2)]
)
def test_low_precision_is_rounded_once(dtype, tolerance):
    x, rois = features_like((2, 3, 9, 13), dtype), random_rois(6, 2, 36, 52)
    expected = loop_roi_align(x.double(), rois, (7, 7), 0.25, 0, True)
    got = roi_align(x, rois, 7, 0.25)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    if dtype != torch.float32:
        assert torch.equal(got, roi_align(x.float(), rois, 7, 0.25).to(dtype))


def test_channels_last_and_views_are_read_correctly():
    x, rois = features_like((2, 8, 9, 13)), random_rois(6, 2, 36, 52)
    expected = roi_align(x, rois, 7, 0.25)
    wide = torch.cat([x, x], 3)[..., :13]
    for same in (x.contiguous(memory_format=torch.channels_last), wide, x.mT.contiguous().mT):
        assert not same.is_contiguous()
        torch.testing.assert_close(roi_align(same, rois, 7, 0.25), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["random", "outside", "no area", "one pixel", "on the border"])
@pytest.mark.parametrize("aligned", [True, False])
def test_gradient_equals_finite_differences(name, aligned):
    shape, rois, scale = ROI_CASES[name]
    x = features_like(shape, torch.float64).requires_grad_()
    for ratio in (0, 2):
        pool = partial(roi_align, rois=rois, output_size=(3, 2), spatial_scale=scale)
        pool = partial(pool, sampling_ratio=ratio, aligned=aligned)
        assert torch.autograd.gradcheck(pool, x, fast_mode=True)


def test_gradient_of_overlapping_boxes_adds_up_and_other_images_get_none():
    x = torch.zeros(2, 1, 4, 4, requires_grad=True)
    rois = torch.tensor([[1.0, 0.5, 0.5, 1.5, 1.5]] * 3)  # one sample, on cell (0.5, 0.5)
    roi_align(x, rois, 1, 1.0, 1).sum().backward()
    assert x.grad[1, 0, :2, :2].tolist() == [[0.75, 0.75], [0.75, 0.75]]
    assert x.grad[0].abs().sum() == 0
    assert x.grad.sum() == 3


def test_backward_function_is_the_gradient():
    x, rois = features_like((2, 3, 9, 13)).requires_grad_(), random_rois(6, 2, 36, 52)
    output = roi_align(x, rois, (5, 3), 0.25, 2, False)
    weights = features_like(output.shape)
    (output * weights).sum().backward()
    assert torch.equal(roi_align_backward(weights, rois, x.shape, (5, 3), 0.25, 2, False), x.grad)


def test_small_chunks_change_nothing(monkeypatch):
    x, rois = features_like((3, 2, 40, 50)), random_rois(40, 3, 40, 50)
    expected = roi_align(x, rois, 7), roi_align_backward(torch.ones(40, 2, 7, 7), rois, x.shape, 7)
    module = sys.modules["convnext_dense.ops.roi_align"]
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(module, "_SAMPLES_AT_ONCE", 2)
    torch.testing.assert_close(roi_align(x, rois, 7), expected[0], rtol=0, atol=1e-6)
    got = roi_align_backward(torch.ones(40, 2, 7, 7), rois, x.shape, 7)
    torch.testing.assert_close(got, expected[1], rtol=1e-5, atol=1e-5)


def test_thousands_of_boxes_on_one_pixel():
    rois = torch.tensor([[0.0, -90.0, -90.0, 90.0, 90.0], [0.0, 0.0, 0.0, 1.0, 1.0]]).repeat(3000, 1)
    output = roi_align(torch.ones(1, 1, 1, 1), rois, 3)
    # bins of 60 cells; the samples of the middle one are at -30, -29 ... 29, and those at -1, 0, 1 count
    assert output[::2, 0, 1, 1].sub(9 / 3600).abs().max() < 1e-7
    assert (output[::2] != 0).sum() == 3000
    assert (output[1::2] == 1).all()


def test_default_device_does_not_matter():
    x, rois = features_like((2, 3, 9, 13)), random_rois(6, 2, 36, 52)
    expected = roi_align(x, rois, 7, 0.25)
    with torch.device("meta"):
        assert torch.equal(roi_align(x, rois, 7, 0.25), expected)


def test_autocast_leaves_it_in_float32():
    x, rois = features_like((2, 3, 9, 13)).requires_grad_(), random_rois(6, 2, 36, 52)
    expected = roi_align(x, rois, 7, 0.25)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        got = roi_align(x, rois, 7, 0.25)
        assert torch.equal(got, expected)
        assert torch.equal(torch.autograd.grad(got.sum(), x)[0], gradient)


def test_one_huge_box_on_a_huge_map_stays_small():
    """The crop is read in place: what is allocated is the map laid out once, and little more."""
    x = torch.ones(1, 8, 600, 800)
    rois = torch.tensor([[0.0, 0.0, 0.0, 800.0, 600.0], [0.0, -4e4, -4e4, 4e4, 4e4]])
    with torch.profiler.profile(profile_memory=True) as profile:
        output = roi_align(x, rois, 7)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 1.01 * x.numel() * x.element_size()
    torch.testing.assert_close(output[0], torch.ones(8, 7, 7))


@pytest.mark.parametrize(
    ("x", "rois", "size", "message"),
    [
        ((1, 1, 4), [[0, 0, 0, 1, 1]], 7, "features: want floating"),
        ((1, 1, 4, 4), [[0, 0, 1, 1]], 7, "rois: want"),
        ((1, 1, 4, 4), [[0, 0, 0, 1, 1]], (0, 7), "output_size must be positive"),
        ((1, 1, 4, 4), [[1, 0, 0, 1, 1]], 7, "image index outside the batch of 1"),
        ((1, 1, 4, 4), [[-1, 0, 0, 1, 1]], 7, "image index outside the batch of 1"),
    ],
)
def test_bad_input_is_refused(x, rois, size, message):
    with pytest.raises(ValueError, match=message):
        roi_align(torch.zeros(x), torch.tensor(rois, dtype=torch.float32), size)


REVERSED = torch.tensor([[0.0, 9, 2, 3, 11], [0, 2, 9, 11, 3], [0, 9, 9, 2, 1], [0, 1, 1, 9, 9]])


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_boxes_of_negative_size_are_those_of_the_cuda_kernel(ratio, aligned):
    """Zeros with adaptive sampling, the reversed box with a fixed ratio; gradients to match."""
    x = features_like((1, 2, 12, 12), torch.float64).requires_grad_()
    rois = REVERSED.double()
    got = roi_align(x, rois, (3, 2), 1.0, ratio, aligned)
    expected = loop_roi_align(x.detach(), rois, (3, 2), 1.0, ratio, aligned)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    if ratio == 0 and aligned:
        assert not got[:3].any() and got[3].any()
    assert torch.autograd.gradcheck(lambda y: roi_align(y, rois, (3, 2), 1.0, ratio, aligned), x)


def test_a_box_that_is_not_finite_gives_nan_and_spoils_no_other():
    x = features_like((1, 2, 6, 6)).requires_grad_()
    rois = torch.tensor([[0.0, 1, 1, 4, 4], [0, float("nan"), 0, 2, 1], [0, 0, 0, float("inf"), 1]])
    got = roi_align(x, rois, 2)
    assert got[1:].isnan().all()
    assert torch.equal(got[:1], roi_align(x, rois[:1], 2))
    got[:1].sum().backward()
    assert x.grad.isfinite().all()


def test_inverted_boxes_are_one_cell_in_the_legacy_layout():
    x = features_like((1, 1, 6, 6))
    flipped, unit = torch.tensor([[0.0, 3, 3, 1, 1]]), torch.tensor([[0.0, 3, 3, 4, 4]])
    assert torch.equal(roi_align(x, flipped, 2, aligned=False), roi_align(x, unit, 2, aligned=False))
