"""The command that shows groups and rates before a run."""

import json

import pytest
from published import param_groups, run_command

from convnext_dense.mm.config.lr_plan import summarise_names


def test_json_and_plot(tmp_path):
    plot = tmp_path / "lr.png"
    result = run_command("explain_lr", "cascade/convnext_b_3x", "--json", "--plot", str(plot))
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["iterations"] == 36 * 7330
    groups = plan["groups"]
    # 14 layers with and without weight decay, as released; rates 2e-4 at the heads
    assert sorted({group["layer"] for group in groups}) == list(range(14))
    scales = {round(scale, 8) for scale, _ in param_groups("cascade/convnext_b_3x").values()}
    assert {round(group["lr_peak"] / 2e-4, 8) for group in groups} == scales
    stem = groups[0]
    assert stem["contents"] == "downsample_layers.0" and stem["params"] == 3 * 4 * 4 * 128
    assert stem["lr_start"] == pytest.approx(0.001 * stem["lr_peak"])
    assert stem["lr_end"] == pytest.approx(0.01 * stem["lr_peak"])
    assert groups[-1]["contents"] == "backbone.norm0-3, neck, rpn_head, roi_head"
    assert sum(group["params"] for group in groups) == pytest.approx(146e6, abs=1e6)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_table_of_a_recipe_without_layer_decay():
    result = run_command("explain_lr", "cascade/swin_t_3x", "--iters-per-epoch", "20")
    lines = result.stdout.splitlines()
    assert len(lines) == 4 and lines[0].split()[:3] == ["layer", "tensors", "params"]
    assert [line.split()[0] for line in lines[1:3]] == ["all", "all"]
    assert lines[-1].startswith("2 groups") and lines[-1].endswith("720 iterations")


def test_an_unknown_recipe_names_the_near_ones():
    result = run_command("explain_lr", "cascade/convnext_base_3x")
    assert result.returncode == 2 and "cascade/convnext_b_3x" in result.stderr


@pytest.mark.parametrize(
    ("names", "summary"),
    [
        (
            ["backbone.stages.2.3.gamma", "backbone.stages.2.5.gamma", "backbone.stages.2.4.gamma"],
            "stages.2.3-5",
        ),
        (
            ["backbone.downsample_layers.1.0.bias", "backbone.stages.1.0.gamma"],
            "downsample_layers.1, stages.1.0",
        ),
        (["backbone.norm0.bias", "backbone.norm3.bias", "neck.convs.0.bias"], "backbone.norm0,3, neck"),
        (["backbone.blocks.0.gamma", "backbone.stem.bias"], "blocks.0, backbone.stem"),
        (["decode_head.conv_seg.weight"], "decode_head"),
    ],
)
def test_summaries(names, summary):
    assert summarise_names(names) == summary
