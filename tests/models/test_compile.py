"""A backbone compiled in place: how many graphs, and what happens where nothing can be compiled."""

import copy
import logging
import shutil

import pytest
import torch
from golden import fill_by_name

from convnext_dense import ConvNeXt
from convnext_dense.models.compile import compile_in_place, compiler_failure

MICRO = dict(depths=(1, 2, 2, 1), dims=(8, 8, 16, 16))  # two widths
# the training scales of the published recipes, at a quarter: short sides of 480 to 800
SCALES = [(120, 200), (128, 213), (136, 224), (168, 280), (184, 333), (200, 256), (200, 333)]


@pytest.fixture(autouse=True)
def forget():
    """Each test compiles for itself, and leaves dynamo's limit as it was."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(cache_size_limit=8):
        yield
    torch._dynamo.reset()


class Counting:
    """A backend that counts the graphs after the first trial; "eager" runs them as they were captured."""

    def __init__(self, name: str = "eager"):
        self.graphs = -1
        self.backend = torch._dynamo.lookup_backend(name)

    def __call__(self, graph, inputs):
        self.graphs += 1
        return self.backend(graph, inputs)


def images(count: int):
    return [torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0)) for size in SCALES]


@pytest.mark.parametrize("with_cp", [False, True])
def test_one_graph_per_width_serves_all_training_scales_and_evaluation_takes_another(with_cp):
    model = fill_by_name(ConvNeXt(MICRO, with_cp=with_cp))
    keys, plain, backend = list(model.state_dict()), copy.deepcopy(model), Counting()
    assert compile_in_place(model, backend)
    assert backend.graphs == 0
    for image in images(2):
        sum(level.square().mean() for level in model(image)).backward()
        sum(level.square().mean() for level in plain(image)).backward()
    assert backend.graphs == 2
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)
    model.eval(), plain.eval()
    with torch.no_grad():
        for image in images(2):
            for a, b in zip(model(image), plain(image), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert backend.graphs == 4
    assert list(model.state_dict()) == keys
    copied = copy.deepcopy(model)
    copied(images(2)[0])
    assert all(block.compiled is None for stage in copied.stages for block in stage)


def test_rates_of_stochastic_depth_and_single_images_stay_within_the_limit():
    model, backend = fill_by_name(ConvNeXt(MICRO, drop_path_rate=0.3)), Counting()
    assert compile_in_place(model, backend)
    several = [image for count in (2, 1) for image in images(count)[::3]]
    for image in several:
        sum(level.square().mean() for level in model(image)).backward()
    model.eval()
    for image in several:
        with torch.no_grad():
            model(image)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            model(image)
    assert backend.graphs == 2 * 6 < torch._dynamo.config.cache_size_limit


def test_v2_and_a_compiled_block_that_was_folded():
    model = fill_by_name(ConvNeXt(MICRO, use_grn=True)).eval()
    plain, backend = copy.deepcopy(model), Counting()
    assert compile_in_place(model, backend)
    model.fuse()
    with torch.no_grad():
        for a, b in zip(model(images(2)[0]), plain(images(2)[0]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert backend.graphs == 2


def test_the_trial_says_why_nothing_can_be_compiled_and_leaves_the_model_alone(caplog):
    def broken(graph, inputs):
        raise OSError("no C++ compiler\nand forty lines of trace")

    model, image = fill_by_name(ConvNeXt(MICRO)).eval(), images(1)[0]
    plain = copy.deepcopy(model)
    with caplog.at_level(logging.WARNING):
        assert not compile_in_place(model, broken)
    (record,) = [r for r in caplog.records if r.name == "convnext_dense.models.compile"]
    assert record.getMessage() == ("torch.compile: OSError: no C++ compiler; the backbone runs without it")
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(image), plain(image), strict=True))


def test_the_trial_takes_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert compiler_failure(torch.device("cpu"), "eager") is None
    assert torch.equal(torch.rand(3), expected)


def test_later_errors_are_raised_and_the_step_is_not_repeated():
    failing = Counting()
    model, calls = fill_by_name(ConvNeXt(MICRO)), []

    def fails_later(graph, inputs):
        if failing.graphs >= 0:
            raise OSError("later")
        return failing(graph, inputs)

    assert compile_in_place(model, fails_later)
    model.stages[0][0].register_forward_pre_hook(lambda *args: calls.append(args))
    with pytest.raises(Exception, match="later"):
        model(images(2)[0])
    assert len(calls) == 1
    with pytest.raises(ValueError, match="at least 32x32 are needed"):
        model(torch.randn(1, 3, 8, 8))


def test_a_backbone_of_another_kind_is_compiled_as_a_whole():
    class Backbone(torch.nn.Conv2d):
        def forward(self, x):
            return (super().forward(x).relu(),)

    model, backend = Backbone(3, 8, 3), Counting()
    keys = list(model.state_dict())
    assert compile_in_place(model, backend)
    model(images(2)[0])
    assert backend.graphs == 1 and list(model.state_dict()) == keys


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_default_backend_trains_at_several_sizes():
    model, backend = (
        fill_by_name(ConvNeXt(dict(depths=(2, 1, 1, 1), dims=(16, 16, 16, 16)))),
        Counting("inductor"),
    )
    plain = copy.deepcopy(model)
    assert compile_in_place(model, backend)
    before = backend.graphs  # the first one is begun twice
    for image in images(2)[:3]:
        sum(level.square().mean() for level in model(image)).backward()
        sum(level.square().mean() for level in plain(image)).backward()
    assert backend.graphs == before + 1
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)
