"""Time and memory of forward passes and training steps, side by side and under stated conditions.

On a GPU the time is measured by CUDA events between two synchronisations. On a CPU there are two
clocks: wall-clock time, and the CPU time of the process, which other processes on the
machine disturb less and from which ratios are taken. Repeats are interleaved, so that a
machine that is busy for a while slows all contenders alike.
"""

import ctypes
import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convnext_dense.errors import ArgumentError
from convnext_dense.layers.fused_block import fuse
from convnext_dense.layers.lean_block import pieces
from convnext_dense.layers.onednn_linear import linear, pack
from convnext_dense.models.archs import resolve_arch
from convnext_dense.support.system import proc_bytes

MIB = 2**20
HW = tuple[int, int]
Pass = Literal["inference", "training"]
PASSES: tuple[Pass, ...] = ("inference", "training")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LIBRARIES = ("timm", "torchvision", "transformers")  # and the toolboxes
REPEATS = {"cpu": 5, "cuda": 50}
_WARM_UPS = {"cuda": 5}  # convolution algorithms are chosen and memory is cached; elsewhere one run


class Runs(NamedTuple):
    """Seconds of each repeat of one contender.

    Attributes:
        wall: wall-clock time.
        cpu: CPU time of the process, all threads together.
        device: between CUDA events; empty without CUDA.
    """

    wall: list[float]
    cpu: list[float]
    device: list[float]

    @property
    def judged(self) -> list[float]:
        """The times from which ratios are computed."""
        return self.device or self.cpu


class Subject(NamedTuple):
    """Something to measure.

    Attributes:
        name: name of the contender.
        ours: whether it is this package's; ratios are against the best of the others.
        run: one forward pass, or one training step.
        kept: its forward pass alone, to count the bytes kept for backward; ``None``
            in inference.
        model, image: weights, buffers and input exist anyway and do not count as kept.
        entries: further entries of its record.
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

    Works on the ``meta`` device as well: then no memory is needed.

    Args:
        forward: called once, with gradients.
        there: weights, buffers and inputs, which exist anyway and do not count.
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
    """Largest memory during ``run`` above that before it; ``None`` where the system does not report it.

    On CUDA: memory of tensors. On a CPU under Linux: memory of the process.
    """
    gc.collect()  # nothing else shall be freed during the run
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
        ctypes.CDLL(None).malloc_trim(0)  # free memory goes back to the system, or its reuse would not show
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is used now
        before = proc_bytes("/proc/self/status", "VmRSS")
        run()
        return max(proc_bytes("/proc/self/status", "VmHWM") - before, 0)
    except (OSError, KeyError, AttributeError, TypeError):  # not Linux, or another C library
        return None


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
        raise ArgumentError(f"repeats={repeats}; at least 1 is needed")
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
    """The tensors of an output, in any nesting."""
    if isinstance(out, Tensor):
        return [out]
    if isinstance(out, Mapping):
        out = out.values()
    return [tensor for part in out for tensor in flat(part)] if isinstance(out, Iterable) else []


def backbone_loss(out: object) -> Tensor:
    """A loss over all levels, with a gradient at every position."""
    return torch.stack([level.float().square().mean() for level in flat(out)]).sum()


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
    """Conditions of a measurement; part of every record.

    Attributes:
        device: ``cpu`` or ``cuda``, or ``meta`` to count bytes alone.
        dtype: a key of :data:`DTYPES`. Backbones are cast to it for inference and run under
            autocast in training; whole models run under autocast in both.
        shape: (height, width) of the images in pixels.
        batch: images per batch.
        compiled: whether ``torch.compile`` is used.
    """

    device: torch.device
    dtype: str = "fp32"
    shape: HW = (800, 1280)
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
    """A backbone that returns its levels, moved, cast and laid out as the conditions say.

    Ours is fused for inference, unless it is compiled: a compiler fuses by itself.
    """
    device, dtype = conditions.device, conditions.dtype
    model = model.to(device=device, memory_format=layout(channels_last))  # type: ignore[call-overload]  # not in its types
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
    """The pointwise products of all blocks and nothing else: no inference that calls them is faster.

    Args:
        arch: as for :class:`convnext_dense.ConvNeXt`.
        fused: whether to call them as the fused path does, with packed weights, instead of by
            :func:`torch.nn.functional.linear`. Both work on the same number of positions, in place.
    """

    def __init__(self, arch: str | Mapping, fused: bool) -> None:
        super().__init__()
        self.depths, self.dims = resolve_arch(arch)
        widths = [dim for depth, dim in zip(self.depths, self.dims, strict=True) for _ in range(depth)]
        self.blocks = nn.ModuleList(
            nn.ModuleList((nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim))) for dim in widths
        )
        self.fused = fused
        self._packed: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one (N, C, H / s, W / s) per stage; only shape, dtype, device of ``x`` count."""
        product = linear if self.fused else F.linear
        if not self._packed:  # once, after all moves and casts
            layers = [layer for layer in self.modules() if isinstance(layer, nn.Linear)]
            weights = (layer.weight.detach() for layer in layers)
            packed = map(pack, weights) if self.fused else weights
            self._packed = list(zip(packed, (layer.bias for layer in layers), strict=True))
        n, _, height, width = x.shape
        products, maps = iter(self._packed), []
        for stage, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            stride = 4 * 2**stage
            y = x.new_zeros(n, height // stride, width // stride, dim)
            rows = y.view(-1, dim)
            for _ in range(depth):
                (w1, b1), (w2, b2) = next(products), next(products)
                for piece in pieces(y, False):
                    hidden = product(rows[piece], w1, b1)  # C -> 4C
                    rows[piece] = product(hidden, w2, b2)  # 4C -> C
            maps.append(y.permute(0, 3, 1, 2))
        return maps
