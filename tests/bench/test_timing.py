"""Bytes, clocks and records of the speed benchmark against figures worked out by hand."""

import json
import sys
import time

import pytest
import torch
from golden import fill_by_name
from torch import nn

from convnext_dense import ConvNeXt
from convnext_dense.bench.complexity import count_macs
from convnext_dense.bench.records import (
    best_other,
    format_records,
    measure,
    record_of,
)
from convnext_dense.bench.timing import (
    MIB,
    Conditions,
    Products,
    Runs,
    Subject,
    backbone_loss,
    backbone_subject,
    kept_bytes,
    peak_bytes,
    saved_bytes,
    time_interleaved,
    time_once,
    training_step,
)
from convnext_dense.checkpoints.other_libraries import LEVELS, PaperConvNeXt
from convnext_dense.errors import CheckpointError
from convnext_dense.layers import fused_block, onednn_linear
from convnext_dense.models.archs import ARCHS, Arch
from convnext_dense.results.records import read_latencies

MICRO = Arch((1, 1, 2, 1), (8, 16, 24, 32))
CPU = Conditions(torch.device("cpu"), shape=(64, 96))


# ----------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "activation, kept",
    [
        (nn.ReLU(), 2 * 20),  # its output, which the next layer keeps too
        (nn.GELU(), 2 * 20 + 2 * 20),  # its input, and its output for the next layer
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_kept_bytes_by_hand(activation, kept, device):
    module = nn.Sequential(nn.Linear(10, 20), activation, nn.Linear(20, 5)).to(device)
    assert saved_bytes(module, torch.empty(2, 10, device=device)) == 4 * kept


def test_a_storage_counts_once_and_not_if_it_was_there():
    x = torch.ones(100, requires_grad=True)
    assert kept_bytes(lambda: (x * x).sum(), [x]) == 0
    doubled = []

    def views() -> None:
        y = x * 2
        doubled.append(y[:50] * y[50:])  # keeps both halves of one storage

    assert kept_bytes(views, [x]) == 400


@pytest.mark.parametrize("memory", ["plain", "lean", "leaner"])
def test_the_meta_device_knows_what_a_cpu_would_keep(memory):
    model, image = ConvNeXt(MICRO._asdict(), memory=memory), torch.randn(2, 3, 64, 96)
    on_cpu = saved_bytes(model, image)
    assert saved_bytes(model.to("meta"), image.to("meta")) == on_cpu > 0


@pytest.mark.parametrize("arch", ["tiny", "base"])
def test_half_of_what_the_others_keep(arch):
    image = torch.empty(1, 3, 512, 512, device="meta")
    with torch.device("meta"):
        ours = saved_bytes(ConvNeXt(arch), image)
    for library, share in (("facebook", 0.50), ("timm", 0.55)):
        try:
            peer = LEVELS[library](ARCHS[arch])
        except CheckpointError:
            continue  # not installed
        assert ours <= share * saved_bytes(peer.to("meta"), image)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reports a process's peak memory")
def test_the_peak_is_above_what_was_used_before():
    before = torch.ones(32 * MIB // 4)
    peak = peak_bytes(lambda: torch.ones(64 * MIB // 4).sum(), torch.device("cpu"))
    assert 60 * MIB < peak < 100 * MIB and before.numel()
    assert peak_bytes(lambda: None, torch.device("meta")) is None


# ------------------------------------------------------------------------------------------------ clocks


def test_runs_are_interleaved_after_a_warm_up():
    calls, ticks = [], []
    taken = time_interleaved(
        [lambda: calls.append("a"), lambda: calls.append("b")], 3, tick=lambda: ticks.append(0)
    )
    assert calls == ["a", "b"] * 4 and len(ticks) == 8
    assert [(len(runs.wall), len(runs.cpu), runs.device) for runs in taken] == [(3, 3, [])] * 2
    with pytest.raises(ValueError, match="repeats=0"):
        time_interleaved([], 0)


def test_waiting_takes_time_on_the_wall_alone():
    wall, cpu, device = time_once(lambda: time.sleep(0.2), torch.device("cpu"))
    assert wall >= 0.2 and cpu < 0.1 and device == []


def test_ratios_are_to_the_fastest_contender_that_is_not_ours():
    def subject(name: str, ours: bool = False, **entries) -> Subject:
        return Subject(name, ours, lambda: None, None, nn.Identity(), torch.ones(1), entries)

    subjects = [subject("ours", True), subject("slow"), subject("fast"), subject("floor", bound=True)]
    runs = [Runs([9, 9, 9], [1, 2, 9], []), Runs([1], [8], []), Runs([1], [4], []), Runs([1], [0.5], [])]
    best = best_other(subjects, runs)
    assert best == 4
    record = record_of(subjects[0], runs[0], (3 * MIB, None), "inference", CPU._replace(batch=2), best)
    assert record["ratio"] == 0.5 and record["clock"] == "cpu"
    assert (record["median_ms"], record["cpu_median_ms"], record["cpu_high_ms"]) == (9000, 2000, 9000)
    assert record["images_per_second"] == pytest.approx(2 / 9, rel=1e-4)
    events = Runs([9, 9, 9], [1, 2, 9], [0.1, 0.2, 0.4])  # as on CUDA
    record = record_of(subjects[0], events, (None, None), "inference", CPU, 0.1)
    assert (record["median_ms"], record["ratio"], record["clock"]) == (200, 2, "cuda")


def test_records_are_json_a_table_and_a_latency():
    models = {name: ConvNeXt(MICRO._asdict()) for name in ("ours", "other")}
    subjects = [backbone_subject(name, m, "inference", CPU, name == "ours") for name, m in models.items()]
    records = [dict(r, row="cascade/x", part="model") for r in measure(subjects, "inference", CPU, repeats=2)]
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    assert read_latencies(records) == (
        {"cascade/x": records[0]["median_ms"]},
        f"64x96, fp32, {records[0]['device']}",
    )
    assert records[1]["ratio"] == 1 and records[0]["kept_bytes"] is None
    head, columns, *lines = format_records(records).splitlines()
    assert "inference, model, 64x96, an image, fp32" in head and "2 interleaved repeats" in head
    assert "CPU ms" in columns and [line.split()[0] for line in lines] == ["ours", "other"]


# ------------------------------------------------------------------------------------------- contenders


def test_the_papers_structure_computes_what_ours_computes():
    ours = fill_by_name(ConvNeXt(MICRO._asdict())).eval()
    peer = PaperConvNeXt(MICRO)
    names = {f"norm{i}": f"norms.{i}" for i in range(4)}
    state = {
        names.get(key.split(".")[0], key.split(".")[0]) + "." + key.partition(".")[2]: tensor
        for key, tensor in ours.state_dict().items()
    }
    peer.load_state_dict(state)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(ours(image), peer(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_products_are_all_pointwise_macs_of_the_arch(fused, monkeypatch):
    monkeypatch.setattr(
        onednn_linear, "onednn_is_exact", lambda dtype: False
    )  # its operators are not counted
    image = torch.empty(1, 3, 64, 96)
    model = Products(MICRO._asdict(), fused)
    positions = [16 * 24, 8 * 12, 4 * 6, 2 * 3]
    pairs = zip(MICRO.depths, MICRO.dims, positions, strict=True)
    assert count_macs(lambda: model(image)) == sum(8 * n * c * c * where for n, c, where in pairs)
    with torch.no_grad():
        assert [tuple(level.shape[1:]) for level in model(image)] == [
            (8, 16, 24), (16, 8, 12), (24, 4, 6), (32, 2, 3),
        ]  # fmt: skip


def test_a_training_step_is_adamw_on_the_loss():
    torch.manual_seed(0)
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    x = torch.randn(4, 3)
    step = training_step(model, lambda: backbone_loss([model(x)]))
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-4)
    for _ in range(2):
        step()
        optimizer.zero_grad()
        twin(x).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(model.weight, twin.weight)


def test_ours_is_fused_for_inference_and_trains_as_asked(monkeypatch):
    made, run = [], fused_block.pointwise
    monkeypatch.setattr(fused_block, "pointwise", lambda *args: made.append(1) or run(*args))
    model = ConvNeXt(MICRO._asdict())
    subject = backbone_subject("ours", model, "inference", CPU._replace(dtype="bf16"), ours=True)
    subject.run()
    assert len(made) == 5 and subject.entries["fused"] and model.norm0.weight.dtype == torch.bfloat16
    backbone_subject("other", ConvNeXt(MICRO._asdict()), "inference", CPU).run()
    assert len(made) == 5
    model = ConvNeXt(MICRO._asdict())
    before = model.norm0.weight.clone()
    for dtype in ("fp32", "bf16"):
        backbone_subject("ours", model, "training", CPU._replace(dtype=dtype), ours=True).run()
    assert model.norm0.weight.dtype == torch.float32 and not torch.equal(model.norm0.weight, before)
