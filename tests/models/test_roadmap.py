"""The roadmap from ResNet-50 to ConvNeXt-T against the paper's figures and text, and its report."""

import json

import pytest
import torch
from published import TABLES, run_tool
from repository import ROOT
from torch import nn

pytest.importorskip("matplotlib")  # the report's pictures

from convnext_dense import CheckpointError, ConvNeXt
from convnext_dense.checkpoints.roadmap import from_resnet, load_roadmap
from convnext_dense.layers.basic import LayerNorm2d
from convnext_dense.models.convnext import Block
from convnext_dense.models.layer_decay import infer_depths, layer_id
from convnext_dense.models.roadmap import STEPS, ResidualBlock, Roadmap
from convnext_dense.reports.roadmap import (
    PUBLISHED,
    Report,
    StepCost,
    format_markdown,
    imagenet_complexity,
    measure,
    plot_report,
    replace_table,
)

FIGURE_2 = dict(zip(STEPS, TABLES["roadmap"]["rows"], strict=True))
# The paper's appendix, Table 10, to two decimals. Left out: `layer_norm`, which adds no convolution to the
# step before it (nothing for ResNet-200 in Table 11) but has 4.46; the last step, whose 4.49 counts norms.
TABLE_10 = dict(
    resnet50=4.09,
    stage_ratio=4.53,
    patchify=4.42,
    depthwise=2.35,
    width=5.27,
    inverted_bottleneck=4.64,
    move_up=4.07,
    kernel_5=4.10,
    kernel_7=4.15,
    kernel_9=4.21,
    kernel_11=4.29,
    gelu=4.15,
    fewer_activations=4.15,
    fewer_norms=4.15,
)


def small(step: str, **kwargs) -> Roadmap:
    """A step in evaluation mode, with statistics and shifts that have an effect."""
    torch.manual_seed(0)
    model = Roadmap(step, **kwargs).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def on_meta(step: str = "gelu", **kwargs) -> Roadmap:
    with torch.device("meta"):
        return Roadmap(step, **kwargs)


# ------------------------------------------------------------------------------------- against the paper


@pytest.mark.parametrize("step", STEPS)
def test_macs_are_the_papers(step):
    counted = imagenet_complexity(step).macs_g
    assert counted == pytest.approx(FIGURE_2[step]["flops_g"], abs=0.1)
    if step in TABLE_10:
        assert counted == pytest.approx(TABLE_10[step], abs=0.006)
    assert PUBLISHED[step].top1 == FIGURE_2[step]["top1"]
    assert PUBLISHED[step].step == FIGURE_2[step]["step"]


def test_parameters_of_both_ends_are_the_published_ones():
    assert imagenet_complexity("resnet50").params == 25_557_032  # torchvision's ResNet-50
    assert imagenet_complexity("separate_downsampling").params == 28_589_128  # the released ConvNeXt-T


# One block in the middle of stage 2: kernels, channels through the convolutions, norms, activations.
RELU, GELU, BN, LN = nn.ReLU, nn.GELU, nn.BatchNorm2d, LayerNorm2d
BLOCKS = {
    "resnet50": ([1, 3, 1], [1024, 256, 256, 1024], [BN] * 3, [RELU] * 3),
    "depthwise": ([1, 3, 1], [1024, 256, 256, 1024], [BN] * 3, [RELU] * 3),
    "width": ([1, 3, 1], [1536, 384, 384, 1536], [BN] * 3, [RELU] * 3),
    "inverted_bottleneck": ([1, 3, 1], [384, 1536, 1536, 384], [BN] * 3, [RELU] * 3),
    "move_up": ([3, 1, 1], [384, 384, 1536, 384], [BN] * 3, [RELU] * 3),
    "kernel_5": ([5, 1, 1], [384, 384, 1536, 384], [BN] * 3, [RELU] * 3),
    "kernel_11": ([11, 1, 1], [384, 384, 1536, 384], [BN] * 3, [RELU] * 3),
    "gelu": ([7, 1, 1], [384, 384, 1536, 384], [BN] * 3, [GELU] * 3),
    "fewer_activations": ([7, 1, 1], [384, 384, 1536, 384], [BN] * 3, [GELU]),
    "fewer_norms": ([7, 1, 1], [384, 384, 1536, 384], [BN], [GELU]),
    "layer_norm": ([7, 1, 1], [384, 384, 1536, 384], [LN], [GELU]),
}


@pytest.mark.parametrize("step", BLOCKS)
def test_blocks_are_those_of_the_text(step):
    block = on_meta(step).stages[2][1]
    kernels, channels, norms, activations = BLOCKS[step]
    convs = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in convs] == kernels
    assert [convs[0].in_channels, *(conv.out_channels for conv in convs)] == channels
    depthwise = [conv.groups for conv in convs if conv.kernel_size[0] > 1]
    assert depthwise == [1 if step == "resnet50" else channels[1]]
    assert [type(module) for module in block.modules() if isinstance(module, BN | LN)] == norms
    assert [type(module) for module in block.modules() if isinstance(module, RELU | GELU)] == activations
    for i, conv in enumerate(convs, start=1):  # a bias before a batch norm has no effect
        assert (conv.bias is None) == isinstance(getattr(block, f"norm{i}"), BN)


@pytest.mark.parametrize("step", STEPS)
def test_one_depth_and_one_stem_per_step(step):
    model = on_meta(step)
    assert model.depths == ((3, 4, 6, 3) if step == "resnet50" else (3, 3, 9, 3))
    assert tuple(len(stage) for stage in model.stages) == model.depths
    stem = [type(module) for module in model.downsample_layers[0]]
    if step in ("resnet50", "stage_ratio"):
        assert stem == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    else:
        assert stem == [nn.Conv2d, LayerNorm2d][: 1 + (step == "separate_downsampling")]
    strides = [conv.stride[0] for conv in model.stages[1][0].modules() if isinstance(conv, nn.Conv2d)]
    assert (2 in strides) == (step != "separate_downsampling")


def test_the_last_step_is_convnext_t():
    model, reference = small("separate_downsampling"), ConvNeXt("tiny").eval()
    state = {key: value + 0.1 * torch.randn_like(value) for key, value in reference.state_dict().items()}
    assert list(model.state_dict()) == list(state)
    reference.load_state_dict(state)
    model.load_state_dict(state)
    image = torch.randn(2, 3, 70, 101)
    with torch.no_grad():
        for ours, theirs in zip(model(image), reference(image), strict=True):
            assert torch.equal(ours, theirs)


def test_drop_path_rises_as_in_convnext():
    rates = [block.drop_path.rate for stage in on_meta("gelu", drop_path_rate=0.4).stages for block in stage]
    with torch.device("meta"):
        reference = ConvNeXt("tiny", drop_path_rate=0.4)
    assert rates == [block.drop_path.rate for stage in reference.stages for block in stage]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.4)


def test_the_block_before_the_last_step_is_convnexts_without_layer_scale():
    torch.manual_seed(0)
    ours = ResidualBlock(STEPS["layer_norm"], 96, 96, stride=1, drop_path_rate=0.0)
    theirs = Block(96, layer_scale_init_value=0.0)
    with torch.no_grad():
        for param in ours.parameters():
            param.normal_(std=0.3)
        for name, source in (
            ("dwconv", "conv1"),
            ("norm", "norm1"),
            ("pwconv1", "conv2"),
            ("pwconv2", "conv3"),
        ):
            module, other = getattr(theirs, name), getattr(ours, source)
            module.weight.copy_(other.weight.reshape(module.weight.shape))
            module.bias.copy_(other.bias)
        image = torch.randn(2, 96, 9, 11)
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------- as a backbone


@pytest.mark.parametrize("step", STEPS)
def test_levels(step):
    model = on_meta(step, out_indices=(0, 2, -1))
    levels = model(torch.empty(2, 3, 96, 160, device="meta"))
    widths = {"width": (384, 1536, 3072)}
    narrow = ("resnet50", "stage_ratio", "patchify", "depthwise")
    expected = widths.get(step, (256, 1024, 2048) if step in narrow else (96, 384, 768))
    assert model.out_channels == expected and model.out_strides == (4, 16, 32)
    assert [tuple(level.shape) for level in levels] == [
        (2, channels, 96 // stride, 160 // stride)
        for channels, stride in zip(expected, (4, 16, 32), strict=True)
    ]
    assert all(level.is_contiguous() for level in levels)


@pytest.mark.parametrize("step", ["resnet50", "inverted_bottleneck", "layer_norm"])
def test_odd_sizes_gradients_and_recomputation(step):
    image = torch.randn(2, 3, 65, 98)
    gradients = []
    for with_cp in (False, True):
        model = small(step, with_cp=with_cp).train()
        levels = model(image)
        sum(level.square().mean() for level in levels).backward()
        assert not [name for name, param in model.named_parameters() if param.grad is None]
        gradients.append(model.stages[0][0].conv1.weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)
    up = step == "resnet50"  # its padded stem rounds up
    assert levels[0].shape[2:] == ((17, 25) if up else (16, 24))


def test_only_the_steps_with_layer_norm_normalise_their_levels():
    normed = [step for step in STEPS if any(key.startswith("norm0.") for key in on_meta(step).state_dict())]
    assert normed == ["layer_norm", "separate_downsampling"]


def test_frozen_stages_and_norm_eval():
    model = small("gelu", frozen_stages=1, norm_eval=True).train()
    frozen = {name for name, param in model.named_parameters() if not param.requires_grad}
    assert frozen == {
        name for name, _ in model.named_parameters() if name.startswith(("downsample_layers.0.", "stages.0."))
    }
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    assert not model.stages[0].training and model.stages[1].training
    before = model.stages[3][0].norm1.running_mean.clone()
    model(torch.randn(2, 3, 64, 64))
    assert torch.equal(model.stages[3][0].norm1.running_mean, before)
    moving = small("gelu").train()
    before = moving.stages[3][0].norm1.running_mean.clone()
    moving(torch.randn(2, 3, 64, 64))
    assert not torch.equal(moving.stages[3][0].norm1.running_mean, before)


@pytest.mark.parametrize("step", STEPS)
def test_layer_decay_knows_every_step(step):
    model = on_meta(step)
    names = [name for name, _ in model.named_parameters()]
    assert infer_depths(names) == model.depths
    groups = {name: layer_id(name, model.depths) for name in names}
    heads = max(groups.values()) if "norm0.weight" in names else max(groups.values()) + 1
    assert heads == (6 if step == "resnet50" else 7)  # 3 + ceil(6 / 3) + 1 and 3 + ceil(9 / 3) + 1
    assert {group for name, group in groups.items() if name.startswith("downsample_layers.0.")} == {0}
    assert not [name for name, group in groups.items() if group == heads and not name.startswith("norm")]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(step="patch"), r"step='patch'.*resnet50.*kernel_11.*separate_downsampling"),
        (dict(out_indices=(0, 4)), "out_indices"),
        (dict(frozen_stages=5), "frozen_stages=5"),
        (dict(drop_path_rate=1.5), "drop path rate"),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        on_meta(**kwargs)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 31, 64)])
def test_wrong_images(shape):
    with pytest.raises(ValueError, match=r"input of"):
        on_meta("gelu")(torch.empty(shape, device="meta"))


# --------------------------------------------------------------------------------------------- weights


def test_weights_come_back_from_a_detectors_file(tmp_path):
    model, source = small("depthwise"), small("depthwise")
    for param in source.parameters():
        param.data.normal_()
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": {**state, "neck.conv.weight": torch.zeros(1)}}, tmp_path / "w.pth")
    load_roadmap(model, str(tmp_path / "w.pth"))
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_last_step_takes_a_released_classifier(tmp_path):
    state = {key: torch.randn_like(value) for key, value in ConvNeXt("tiny").state_dict().items()}
    body = {key: value for key, value in state.items() if not key.startswith("norm")}
    head = {"norm.weight": torch.ones(768), "norm.bias": torch.ones(768)}
    head |= {"head.weight": torch.ones(1000, 768), "head.bias": torch.ones(1000)}
    torch.save({"model": {**body, **head}}, tmp_path / "w.pth")
    model = Roadmap()
    load_roadmap(model, str(tmp_path / "w.pth"))
    own = model.state_dict()
    assert len(body) == 178 and all(torch.equal(own[key], value) for key, value in body.items())


def test_weights_of_another_step_are_refused_and_nothing_is_changed(tmp_path):
    torch.save(small("gelu").state_dict(), tmp_path / "w.pth")
    model = small("kernel_5")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"w\.pth does not fit step='kernel_5'.*18 of another shape"):
        load_roadmap(model, str(tmp_path / "w.pth"))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_key_that_no_resnet_has_raises():
    with pytest.raises(KeyError, match=r"1 keys unknown to a ResNet.*layer5"):
        from_resnet({"layer5.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)})


# ---------------------------------------------------------------------------------------------- report


def test_measured_rows_survive_json_and_are_drawn(tmp_path):
    report = measure([(64, 64), (64, 96)], repeats=1, steps=("resnet50", "gelu"))
    assert Report.from_record(json.loads(json.dumps(report.record()))) == report
    assert [row.name for row in report.rows] == ["resnet50", "gelu"]
    for row in report.rows:
        assert list(row.seconds) == ["64x64", "64x96"] and min(row.seconds.values()) > 0
        assert row.saved_bytes > 2**20
    assert "1 interleaved repeats" in report.conditions and torch.__version__ in report.conditions
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        plot_report(tmp_path / name, report)
        assert (tmp_path / name).read_bytes().startswith(start)
    plot_report(tmp_path / "b.svg", report)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.svg"]


def test_table():
    row = StepCost("kernel_9", 4_210_000_000, 25_340_000, 3 * 2**20, {"64x64": 0.0123})
    table = format_markdown(Report("one thread", (32, 64), (row,)))
    assert table.splitlines()[2] == (
        "| `kernel_9` (alternative) | kernel 9x9 | 80.6 | 4.21 | 4.2 | 25.3 | 12 | 3 |"
    )
    assert "MiB kept at 32x64" in table and table.endswith("Measured on one thread.\n")
    place = "a\n<!-- roadmap table: begin -->\nold\n<!-- roadmap table: end -->\nb\n"
    text = replace_table(place, table)
    assert text.startswith("a\n") and text.endswith("\nb\n") and table in text and "old" not in text
    assert replace_table(text, table) == text
    with pytest.raises(ValueError, match="no place"):
        replace_table("a", table)


def test_the_document_shows_the_measured_record():
    report = Report.from_record(json.loads((ROOT / "docs/roadmap.json").read_text()))
    assert [row.name for row in report.rows] == list(STEPS)
    assert format_markdown(report) in (ROOT / "docs/roadmap.md").read_text()
    for row in report.rows:
        assert row.macs == imagenet_complexity(row.name).macs


def test_command_line(tmp_path):
    (tmp_path / "roadmap.md").write_text("<!-- roadmap table: begin -->\n<!-- roadmap table: end -->\n")
    done = run_tool(
        "tools/dev/roadmap.py",
        "--steps",
        "patchify",
        "--size",
        "64",
        "64",
        "--repeats",
        "1",
        "-o",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "| `patchify` |" in done.stdout and "patchify: " in done.stderr
    assert done.stdout in (tmp_path / "roadmap.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {
        *("roadmap.md", "roadmap.json", "roadmap.png", "roadmap.svg")
    }
    done = run_tool("tools/dev/roadmap.py", "--redraw", "-o", str(tmp_path / "none"))
    assert done.returncode == 2 and done.stderr.startswith("error: --redraw: no ")
