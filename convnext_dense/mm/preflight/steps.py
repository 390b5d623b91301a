"""Real training steps, their time and their memory; the pace of the loader and of evaluations."""

import copy
import os
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from mmengine import dist
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn
from torch.utils.data import DataLoader, Dataset

from convnext_dense.bench.timing import peak_bytes, time_once
from convnext_dense.mm.preflight.samples import Samples
from convnext_dense.mm.preflight.shape import around, pad
from convnext_dense.reports.preflight import USABLE, Line, largest_batch, memory_line
from convnext_dense.support.system import free_memory, used_memory

LOADER_SECONDS = 20.0
CLEAR = 128 * 2**20  # bytes of a step; other memory use of the process is small beside it
MOST = 16  # images of a batch that is tried only for the line of memory
MOST_CONFIRMED = (
    512  # images of a batch that is tried to see whether it fits; thousands of small ones take minutes
)


# ----------------------------------------------------------------------------------------------- steps


class Measured(NamedTuple):
    """Time and memory of the steps.

    Attributes:
        seconds: time of the second step on the configured batch; ``None`` if that does not fit.
        peaks: images -> bytes of a step beyond ``before``; empty if the system does not report them.
        before: bytes in use before the steps.
        free: bytes free before the steps.
        loss: loss of the last step.
    """

    seconds: float | None
    peaks: dict[int, int]
    before: int
    free: int
    loss: float

    @property
    def line(self) -> Line | None:
        """Memory as a function of the batch."""
        return memory_line(self.peaks)


def measure_steps(
    model: nn.Module, optim_wrapper: OptimWrapper, samples: Samples, batch_size: int, least: int = 1
) -> Measured:
    """Take two training steps on a batch of ``batch_size``, and one on some other sizes to see memory grow.

    Args:
        model: model on its device, in its wrapper.
        optim_wrapper: optimizer of its parameters, which change.
        samples: samples of the largest shape.
        batch_size: images per process.
        least: smallest batch that the model can train on; 2 with batch norm.
    """
    device = next(model.parameters()).device
    losses: list[float] = []

    def step(batch: dict) -> None:
        losses.append(float(model.train_step(batch, optim_wrapper=optim_wrapper)["loss"].detach()))

    model.train()
    least = min(least, batch_size)
    step(samples.warm_up(least))  # optimizer state is allocated
    before, free = used_memory(device), available_memory(device)
    peaks: dict[int, int] = {}
    seconds: list[float] = []

    def tried(images: int) -> bool:
        """Whether a batch of ``images`` fits; its time and peak are recorded."""
        if not _agreed(_may_fit(images, peaks, free, device)):
            return False
        noted: list[tuple[float, int | None]] = []

        def steps() -> None:
            for _ in range(2 if images == batch_size else 1):
                noted.append(timed_peak(partial(step, samples.batch(images)), device))

        if not survives(steps, model):
            return False
        taken, peak = noted[-1]
        if images == batch_size:
            seconds.append(taken)
        if peak is not None:
            peaks[images] = peak
        return True

    fits = all(tried(images) for images in sorted({least, batch_size}))
    while peaks and max(peaks) < MOST:
        largest = max(peaks)
        clear = not _agreed(peaks[largest] < CLEAR)
        images = largest + 1 if clear else 2 * largest
        if (clear and len(peaks) > 1) or (images >= batch_size and not fits) or not tried(images):
            break  # a line needs two points that are far enough apart
    return Measured(seconds[0] if seconds else None, peaks, before, free, losses[-1])


def survives(run: Callable[[], object], model: nn.Module) -> bool:
    """Whether ``run``, a step of ``model``, ends without filling the GPU's memory."""
    try:
        run()
        return True
    except torch.cuda.OutOfMemoryError:
        if dist.is_distributed():
            raise  # the other processes wait for this one
    # after the handler, whose traceback keeps the tensors of the step
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return False


def _may_fit(images: int, peaks: Mapping[int, int], free: int, device: torch.device) -> bool:
    """Whether a step may be tried: running out of CPU memory ends the process."""
    if not peaks or device.type == "cuda":
        return True
    last = max(peaks)
    return peaks[last] * images / last < free * USABLE


def _agreed(mine: bool) -> bool:
    """Whether all processes say yes; their free memory differs."""
    return all(dist.all_gather_object(mine)) if dist.is_distributed() else mine


def timed_peak(run: Callable[[], None], device: torch.device) -> tuple[float, int | None]:
    """Seconds and peak bytes of one call; ``None`` if the system does not report memory."""
    taken: list[float] = []
    peak = peak_bytes(lambda: taken.append(time_once(run, device)[0]), device)
    if peak is None and not taken:  # the system reports no memory, so the call was not made
        taken.append(time_once(run, device)[0])
    return taken[-1], peak


def available_memory(device: torch.device) -> int:
    """Bytes that a step may take beyond those in use; the processes of a machine share its memory."""
    if device.type != "cpu":
        return free_memory(device)
    return free_memory(device) // int(os.environ.get("LOCAL_WORLD_SIZE") or dist.get_world_size())


def confirmed(images: int, known: int, fits: Callable[[int], bool]) -> int:
    """The largest batch from ``images`` downwards that really fits.

    Args:
        images: estimate from the line of memory.
        known: batch that fitted.
        fits: function that tries a step.
    """
    while images > known and not fits(images):
        images = max(known, images - max(1, images // 16))
    return images


def largest_fitting(
    model: nn.Module, optim_wrapper: OptimWrapper, samples: Samples, measured: Measured
) -> tuple[int, bool] | None:
    """Images of the largest batch that fits, and whether it was tried.

    On a CPU it never is, since a batch that does not fit ends the process; on one GPU up to `MOST_CONFIRMED`.

    ``None`` where nothing is known about memory.
    """
    line = measured.line
    if line is None:
        return None
    images = largest_batch(line, measured.free)
    device = next(model.parameters()).device
    if device.type != "cuda" or dist.is_distributed() or images > MOST_CONFIRMED:
        return images, False

    def fits(images: int) -> bool:
        batch = samples.batch(images)
        return survives(lambda: model.train_step(batch, optim_wrapper=optim_wrapper), model)

    return confirmed(images, max(measured.peaks), fits), True


# ------------------------------------------------------------------------------------------------ pace


class LoaderPace(NamedTuple):
    """Seconds per batch, mean area of a batch after padding in pixels, and number of batches measured."""

    seconds: float
    area: float
    batches: int


def loader_pace(
    loader: DataLoader, preprocessor: Mapping, limit: float = LOADER_SECONDS
) -> LoaderPace | None:
    """Measure the real loader after the first batch of each worker; ``None`` if it has too few batches."""
    first, most = max(1, loader.num_workers), max(8, 4 * loader.num_workers)
    areas: list[float] = []
    start = counted = 0
    end = time.monotonic() + limit
    batches = iter(loader)
    for number, batch in zip(range(first + most), batches, strict=False):
        height, width = pad(around([image.shape[-2:] for image in batch["inputs"]]), preprocessor)
        areas.append(height * width)
        now = time.perf_counter()
        start = now if number < first else start
        counted = max(0, number + 1 - first)
        if time.monotonic() > end and counted:
            break
    del batches  # ends the workers
    if not counted:
        return None
    return LoaderPace((now - start) / counted, sum(areas) / len(areas), len(areas))


def evaluation_pace(model: nn.Module, dataset: Dataset, batch_size: int, fp16: bool = False) -> float:
    """Seconds per validation image: two batches, after one that is not counted."""
    device = next(model.parameters()).device
    model.eval()
    order = random.Random(0).sample(range(len(dataset)), min(len(dataset), 3 * batch_size))
    items = [dataset[index] for index in order]
    taken = []
    for start in range(3):
        chosen = [copy.deepcopy(items[(start * batch_size + i) % len(items)]) for i in range(batch_size)]
        batch = pseudo_collate(chosen)
        with torch.no_grad(), autocast(enabled=fp16):
            taken.append(time_once(lambda batch=batch: model.val_step(batch), device)[0])
    return sum(taken[1:]) / 2 / batch_size
