"""Time and memory of forward passes and training steps, side by side and under stated conditions.

On a GPU the time is what CUDA events say between two synchronisations. On a CPU there are two
clocks: the one on the wall, and the CPU time of the process, which other processes on the
machine disturb less and from which ratios are taken. Repeats are interleaved, so that a
machine that is busy for a while slows all contenders alike.
"""

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from convnext_dense.archs import resolve_arch
from convnext_dense.doctor import installed_version
from convnext_dense.fuse import fuse
from convnext_dense.lean import pieces
from convnext_dense.products import linear

MIB = 2**20
Size = tuple[int, int]
Pass = Literal["inference", "training"]
PASSES: tuple[Pass, ...] = ("inference", "training")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LIBRARIES = ("timm", "torchvision", "transformers", "mmpretrain", "mmengine", "mmcv", "mmcv-lite", "mmdet")
REPEATS = {"cpu": 5, "cuda": 50}
_WARM_UPS = {"cuda": 5}  # convolution algorithms are chosen and memory is cached; elsewhere one run


class Runs(NamedTuple):
    """Seconds of each repeat of one contender.

    Attributes:
        wall: by the clock on the wall.
        cpu: CPU time of the process, all threads together.
        device: between CUDA events; empty without CUDA.
    """

    wall: list[float]
    cpu: list[float]
    device: list[float]

    @property
    def judged(self) -> list[float]:
        """Those from which ratios are taken."""
        return self.device or self.cpu


class Subject(NamedTuple):
    """Something to measure.

    Attributes:
        name: of the contender.
        ours: whether it is this package's; ratios are against the best of the others.
        run: one forward pass, or one training step.
        kept: its forward pass alone, of which the bytes kept for backward are counted; ``None``
            in inference.
        model, image: weights, buffers and input are there anyway and do not count as kept.
        entries: what else its record says.
    """

    name: str
    ours: bool
    run: Callable[[], object]
    kept: Callable[[], object] | None
    model: nn.Module
    image: Tensor
    entries: dict


# ------------------------------------------------------------------------------------------------ memory


def kept_bytes(forward: Callable[[], object], there: Iterable[Tensor]) -> int:
    """Bytes that ``forward`` keeps for its backward pass; each storage counts once.

    Works on the ``meta`` device as well: no memory is needed to know what would be kept.

    Args:
        forward: called once, with gradients.
        there: weights, buffers and inputs, which are there anyway and do not count.
    """
    known = {tensor.untyped_storage()._cdata for tensor in there}
    kept: dict[int, torch.UntypedStorage] = {}  # holds the storages, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage
        return tensor.detach()  # with its history it would keep itself alive

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def saved_bytes(module: nn.Module, image: Tensor) -> int:
    """Bytes that the forward pass of ``module`` on ``image`` keeps for its backward pass.

    The weights, the buffers and the image do not count.
    """
    return kept_bytes(lambda: module(image), (*module.parameters(), *module.buffers(), image))


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Largest memory during ``run`` above that before it; ``None`` where the system does not tell.

    On CUDA: of tensors. On a CPU under Linux: of the process.
    """
    gc.collect()  # nothing else is to be freed meanwhile
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, or using it again would not show
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is used now
        before = _status_bytes("VmRSS")
        run()
        return max(_status_bytes("VmHWM") - before, 0)
    except (OSError, KeyError, AttributeError, TypeError):  # not Linux, or another C library
        return None


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines if ":" in line)[key].split()[0]) * 1024


# -------------------------------------------------------------------------------------------------- time


def time_interleaved(
    runs: Sequence[Callable[[], object]],
    repeats: int,
    device: torch.device | str = "cpu",
    tick: Callable[[], None] = lambda: None,
) -> list[Runs]:
    """Time each of ``runs`` over interleaved repeats, after a warm-up each.

    Args:
        runs: what to time.
        repeats: timed calls of each.
        device: where they run.
        tick: called after each call, for a progress bar.

    Raises:
        ValueError: fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}; at least 1 is needed")
    device = torch.device(device)
    taken = [Runs([], [], []) for _ in runs]
    for repeat in range(-warm_ups(device), repeats):
        for run, times in zip(runs, taken, strict=True):
            wall, cpu, on_device = time_once(run, device)
            tick()
            if repeat >= 0:
                times.wall.append(wall)
                times.cpu.append(cpu)
                times.device.extend(on_device)
    return taken


def warm_ups(device: torch.device) -> int:
    """Calls before the timed ones."""
    return _WARM_UPS.get(device.type, 1)


def time_once(run: Callable[[], object], device: torch.device) -> tuple[float, float, list[float]]:
    """Seconds of one call: wall, CPU of the process, and between CUDA events if there are any."""
    cuda = device.type == "cuda"
    if cuda:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    if cuda:
        events[0].record()
    run()
    if cuda:
        events[1].record()
        torch.cuda.synchronize(device)
    taken = time.perf_counter() - wall, time.process_time() - cpu
    return *taken, [events[0].elapsed_time(events[1]) / 1000] if cuda else []


# ------------------------------------------------------------------------------- what a contender runs


def flat(out: object) -> list[Tensor]:
    """The tensors of an output, whatever holds them."""
    if isinstance(out, Tensor):
        return [out]
    if isinstance(out, Mapping):
        out = out.values()
    return [tensor for part in out for tensor in flat(part)] if isinstance(out, Iterable) else []


def backbone_loss(out: object) -> Tensor:
    """A loss that every level has a share in, with a gradient at every position."""
    return sum(level.float().square().mean() for level in flat(out))


def autocast(device: torch.device, dtype: str) -> AbstractContextManager:
    """Mixed precision in training; nothing for fp32."""
    return nullcontext() if dtype == "fp32" else torch.autocast(device.type, dtype=DTYPES[dtype])


def training_step(model: nn.Module, loss: Callable[[], Tensor], scaled: bool = False) -> Callable[[], None]:
    """Forward, backward and AdamW; ``scaled`` as float16 needs it on CUDA."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    kind = getattr(torch.amp, "GradScaler", None) or torch.cuda.amp.GradScaler
    scaler = kind(enabled=scaled)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss()).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


class Conditions(NamedTuple):
    """Under which conditions contenders are measured; part of every record.

    Attributes:
        device: ``cpu`` or ``cuda``, or ``meta`` to count bytes alone.
        dtype: a key of :data:`DTYPES`. Backbones are cast to it for inference and run under
            autocast in training; whole models run under autocast in both.
        shape: (height, width) of the images in pixels.
        batch: images at a time.
        compiled: through ``torch.compile``.
    """

    device: torch.device
    dtype: str = "fp32"
    shape: Size = (800, 1280)
    batch: int = 1
    compiled: bool = False

    def image(self, channels_last: bool = False) -> Tensor:
        """(batch, 3, H, W) of noise."""
        generator = torch.Generator().manual_seed(0)
        if self.device.type == "meta":
            image = torch.empty(self.batch, 3, *self.shape, device="meta")
        else:
            image = torch.randn(self.batch, 3, *self.shape, generator=generator).to(self.device)
        return image.contiguous(memory_format=layout(channels_last))


def layout(channels_last: bool) -> torch.memory_format:
    """Memory format by name."""
    return torch.channels_last if channels_last else torch.contiguous_format


def backbone_subject(
    name: str,
    model: nn.Module,
    direction: Pass,
    conditions: Conditions,
    ours: bool = False,
    channels_last: bool = False,
    entries: Mapping[str, object] | None = None,
) -> Subject:
    """A backbone that returns its levels, ready to run; it is moved, cast and laid out as the conditions say.

    Ours is fused for inference, unless it is compiled: a compiler fuses by itself.
    """
    device, dtype = conditions.device, conditions.dtype
    model = model.to(device=device, memory_format=layout(channels_last))
    image = conditions.image(channels_last)
    entries = dict(entries or {}, channels_last=channels_last)
    call = torch.compile(model, dynamic=False) if conditions.compiled else model
    if direction == "inference":
        model.eval()  # mmpretrain's returns None
        model.to(DTYPES[dtype])
        image = image.to(DTYPES[dtype])
        if ours and not conditions.compiled:
            fuse(model)
            entries["fused"] = True

        def infer() -> None:
            with torch.inference_mode():
                call(image)

        return Subject(name, ours, infer, None, model, image, entries)
    model.train()

    def forward() -> object:
        with autocast(device, dtype):
            return call(image)

    def kept() -> None:
        with autocast(device, dtype) if device.type != "meta" else nullcontext():
            model(image)

    scaled = dtype == "fp16" and device.type == "cuda"
    step = training_step(model, lambda: backbone_loss(forward()), scaled)
    return Subject(name, ours, step, kept, model, image, entries)


class Products(nn.Module):
    """The pointwise products of all blocks and nothing else: no inference is faster than they are."""

    def __init__(self, arch: str | Mapping = "tiny") -> None:
        super().__init__()
        self.depths, self.dims = resolve_arch(arch)
        widths = [dim for depth, dim in zip(self.depths, self.dims, strict=True) for _ in range(depth)]
        self.first = nn.ModuleList(nn.Linear(dim, 4 * dim) for dim in widths)
        self.second = nn.ModuleList(nn.Linear(4 * dim, dim) for dim in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one (N, C, H / s, W / s) a stage; only shape, dtype and device of ``x`` matter."""
        n, _, height, width = x.shape
        first, second, maps = iter(self.first), iter(self.second), []
        for stage, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            stride = 4 * 2**stage
            y = x.new_zeros(n, height // stride, width // stride, dim)
            for one, two in islice(zip(first, second, strict=True), depth):
                out = torch.empty_like(y).view(-1, dim)
                rows = y.view(-1, dim)
                for piece in pieces(y, False):
                    hidden = linear(rows[piece], one.weight, one.bias)  # C -> 4C
                    out[piece] = linear(hidden, two.weight, two.bias)  # 4C -> C
                y = out.view(y.shape)
            maps.append(y.permute(0, 3, 1, 2))
        return maps


# ----------------------------------------------------------------------------------------------- records


def measure(
    subjects: Sequence[Subject],
    direction: Pass,
    conditions: Conditions,
    repeats: int,
    tick: Callable[[], None] = lambda: None,
) -> list[dict]:
    """Measure ``subjects`` side by side; one record each, see :func:`record_of`."""
    counts = [count_memory(subject, conditions.device) for subject in subjects]
    runs = [Runs([], [], []) for _ in subjects]
    if conditions.device.type != "meta":
        runs = time_interleaved([s.run for s in subjects], repeats, conditions.device, tick)
    best = best_other(subjects, runs)
    return [
        record_of(subject, taken, memory, direction, conditions, best)
        for subject, taken, memory in zip(subjects, runs, counts, strict=True)
    ]


def count_memory(subject: Subject, device: torch.device) -> tuple[int | None, int | None]:
    """Bytes kept for backward and the peak; each ``None`` where there is none to count."""
    kept = None
    if subject.kept is not None:
        there = (*subject.model.parameters(), *subject.model.buffers(), subject.image)
        kept = kept_bytes(subject.kept, there)
    if device.type == "meta":
        return kept, None
    subject.run()  # the optimizer's state and caches are not what the peak is asked for
    return kept, peak_bytes(subject.run, device)


def best_other(subjects: Sequence[Subject], runs: Sequence[Runs]) -> float | None:
    """Seconds of the fastest contender that is not ours; ``None`` without one."""
    medians = [
        statistics.median(taken.judged)
        for subject, taken in zip(subjects, runs, strict=True)
        if taken.judged and not subject.ours and not subject.entries.get("bound")
    ]
    return min(medians, default=None)


def record_of(
    subject: Subject,
    runs: Runs,
    memory: tuple[int | None, int | None],
    direction: Pass,
    conditions: Conditions,
    best: float | None,
) -> dict:
    """One contender's measurement as plain values, ready for JSON.

    Fields: ``kind`` (speed), ``contender``, ``ours``, ``pass`` (inference or training), ``height``,
    ``width``, ``batch``, ``dtype``, ``compiled``, ``device``, ``threads``, ``versions``, ``repeats``,
    ``clock`` (from which ``ratio`` is taken: cpu, or cuda events), ``median_ms`` with ``low_ms`` and
    ``high_ms`` (wall clock, or CUDA events) of a whole batch, ``cpu_median_ms`` with its ``low`` and
    ``high`` (CPU time of the process), ``images_per_second`` (from ``median_ms``), ``ratio`` (time over
    that of the fastest contender that is not ours), ``kept_bytes`` (for backward), ``peak_bytes``.
    What cannot be had is ``None``. The caller adds ``row``, ``part`` (backbone or model) and ``time``;
    a contender may add entries of its own, such as ``memory``, ``fused`` or ``paper_fps``.
    """
    shown = runs.device or runs.wall
    median = 1000 * statistics.median(shown) if shown else None
    judged = statistics.median(runs.judged) if runs.judged else None
    kept, peak = memory
    return dict(
        kind="speed",
        contender=subject.name,
        ours=subject.ours,
        **{"pass": direction},
        height=conditions.shape[0],
        width=conditions.shape[1],
        batch=conditions.batch,
        dtype=conditions.dtype,
        compiled=conditions.compiled,
        device=device_name(conditions.device),
        threads=torch.get_num_threads(),
        versions=versions(),
        repeats=len(shown),
        clock="cuda" if runs.device else "cpu",
        median_ms=_round(median) if median else None,
        low_ms=_round(1000 * min(shown)) if shown else None,
        high_ms=_round(1000 * max(shown)) if shown else None,
        cpu_median_ms=_round(1000 * statistics.median(runs.cpu)) if runs.cpu else None,
        cpu_low_ms=_round(1000 * min(runs.cpu)) if runs.cpu else None,
        cpu_high_ms=_round(1000 * max(runs.cpu)) if runs.cpu else None,
        images_per_second=_round(1000 * conditions.batch / median) if median else None,
        ratio=_round(judged / best) if judged and best else None,
        kept_bytes=kept,
        peak_bytes=peak,
        **subject.entries,
    )


def _round(value: float) -> float:
    return float(f"{value:.5g}")


def device_name(device: torch.device | str) -> str:
    """The GPU's or the CPU's name."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name() if device.type == "cpu" else device.type


def cpu_name() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of what a time depends on; packages that are absent are left out."""
    found = {name: installed_version(name) for name in ("convnext_dense", "torch", *LIBRARIES)}
    return {"python": platform.python_version(), **{k: v for k, v in found.items() if v}}


def format_records(records: Sequence[Mapping]) -> str:
    """Records of one comparison as aligned text under a line with their conditions."""
    table = [("", "ms", "range", "CPU ms", "range", "images/s", "ratio", "kept MiB", "peak MiB", "")]
    for r in records:
        table.append(
            (
                r["contender"],
                _number(r["median_ms"], ".1f"),
                _range(r["low_ms"], r["high_ms"]),
                _number(r["cpu_median_ms"], ".1f"),
                _range(r["cpu_low_ms"], r["cpu_high_ms"]),
                _number(r["images_per_second"], ".2f"),
                _number(r["ratio"], ".3f"),
                _number(r["kept_bytes"] and r["kept_bytes"] / MIB, ".0f"),
                _number(r["peak_bytes"] and r["peak_bytes"] / MIB, ".0f"),
                f"paper: {r['paper_fps']:g} FPS on an A100" if r.get("paper_fps") else "",
            )
        )
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in table]
    return "\n".join(line.rstrip() for line in (heading(records[0]), *lines))


def heading(record: Mapping) -> str:
    """The conditions of a comparison in one line."""
    threads = f", {record['threads']} CPU thread{'s'[: record['threads'] > 1]}"
    how = ", compiled" if record["compiled"] else ""
    unit = "an image" if record["batch"] == 1 else f"a batch of {record['batch']}"
    return (
        f"{record['pass']}, {record.get('part', 'backbone')}, {record['height']}x{record['width']}, {unit}, "
        f"{record['dtype']}{how}; {record['device']}{threads}, torch {record['versions']['torch']}; "
        f"medians of {record['repeats']} interleaved repeats, ratios of "
        f"{'CUDA' if record['clock'] == 'cuda' else 'CPU'} time to the best that is not ours"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None else f"{low:.0f}-{high:.0f}"
