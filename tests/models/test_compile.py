"""A module compiled in place: how often, and what happens where it cannot be."""

import copy
import logging

import pytest
import torch
from golden import fill_by_name

from convnext_dense import ConvNeXt
from convnext_dense.models.compile import compile_in_place

MICRO = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
# the training scales of the published recipes, at a quarter: short sides of 480 to 800
SCALES = [(120, 200), (128, 213), (136, 224), (168, 280), (184, 333), (200, 256), (200, 333)]


@pytest.fixture(autouse=True)
def forget():
    """Each test compiles for itself."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def images(count: int):
    return [torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0)) for size in SCALES]


def test_one_graph_serves_all_training_scales_and_evaluation_takes_another():
    model = fill_by_name(ConvNeXt(MICRO))
    keys, plain = list(model.state_dict()), copy.deepcopy(model)
    outcome = compile_in_place(model, backend="eager")
    assert outcome.graphs == 0
    for image in images(2):
        sum(level.square().mean() for level in model(image)).backward()
        sum(level.square().mean() for level in plain(image)).backward()
    assert outcome.graphs == 1 and outcome.failure is None
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)
    model.eval(), plain.eval()
    with torch.no_grad():
        for image in images(2):
            for a, b in zip(model(image), plain(image), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert outcome.graphs == 2
    assert list(model.state_dict()) == keys
    copied = copy.deepcopy(model)
    copied(images(2)[0])
    assert copied._compiled_call_impl is None and outcome.graphs == 2


def test_what_fails_to_compile_runs_without_and_says_so_once(caplog):
    def broken(graph, inputs):
        raise OSError("no C++ compiler\nand forty lines of trace")

    model = fill_by_name(ConvNeXt(MICRO)).eval()
    plain, image = copy.deepcopy(model), images(1)[0]
    outcome = compile_in_place(model, backend=broken)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        found, expected = (model(image), model(image)), plain(image)
    for levels in found:
        assert all(torch.equal(a, b) for a, b in zip(levels, expected, strict=True))
    (record,) = [r for r in caplog.records if r.name == "convnext_dense.models.compile"]
    assert "no C++ compiler" in record.getMessage() and "without it" in record.getMessage()
    assert "\n" not in record.getMessage() and outcome.failure


def test_compiling_ends_where_every_size_takes_a_graph(monkeypatch):
    monkeypatch.setattr("convnext_dense.models.compile.MAX_GRAPHS", 3)
    model = ConvNeXt(MICRO).eval()
    outcome = compile_in_place(model, dynamic=False, backend="eager")
    with torch.no_grad():
        for image in images(1):
            model(image)
    assert outcome.graphs == 3 and "image sizes keep changing" in outcome.failure


def test_errors_of_the_module_stay_its_own():
    model = ConvNeXt(MICRO).eval()
    outcome = compile_in_place(model, backend="eager")
    with pytest.raises(ValueError, match="at least 32x32 are needed"):
        model(torch.randn(1, 3, 8, 8))
    assert outcome.failure is None
