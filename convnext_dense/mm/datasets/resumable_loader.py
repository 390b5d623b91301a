"""Training data for one optimizer step at a time, starting at any step of the run."""

import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from convnext_dense.errors import ArgumentError
from convnext_dense.support.seeding import SAMPLE, seed_all


class StepLoader:
    """Lists of ``accumulate`` batches whose augmentations depend only on seed and position in the run.

    Sample ``n`` of a pass, counted over all ranks, is drawn from ``(seed, pass, n)``, whichever worker of any
    rank loads it. So a run resumes exactly at any step, also with another number of workers or ranks. Samples
    seen before are skipped by index; no image is read for them.

    Other attributes are those of the wrapped ``DataLoader``: ``dataset``, ``sampler``, ``num_workers`` ...

    Args:
        loader: ``DataLoader`` as mmengine builds it.
        accumulate: batches per step.
        seed: seed of the run.
        rank, world_size: rank of this process and number of processes.

    Attributes:
        step_images: images of a step over all ranks; ``None`` for a sampler that does not say.
    """

    def __init__(
        self, loader: DataLoader, accumulate: int = 1, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.accumulate = accumulate
        per_batch = getattr(loader.batch_sampler, "batch_size", None)
        self.step_images = per_batch and per_batch * accumulate * world_size
        self.batches = NumberedBatches(loader.batch_sampler, rank, world_size)
        of_workers = ("prefetch_factor", "persistent_workers", "multiprocessing_context", "timeout")
        self.loader = DataLoader(
            SeededDataset(loader.dataset, seed),
            batch_sampler=self.batches,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
            **{name: getattr(loader, name) for name in of_workers if loader.num_workers},
        )

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not set yet
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        """Steps of one pass over the data; the last one may have fewer batches."""
        return -(-len(self.loader) // self.accumulate)

    def __iter__(self) -> Iterator[list]:
        return self.epoch(0)

    def epoch(self, number: int, first: int = 0) -> Iterator[list]:
        """The steps of pass ``number`` over the data, starting at its step ``first``."""
        self.batches.take(number, first * self.accumulate)
        batches = iter(self.loader)
        while step := list(itertools.islice(batches, self.accumulate)):
            yield step

    def endless(self, first: int = 0) -> Iterator[list]:
        """Steps without end, starting at step ``first`` of the run."""
        self.batches.take(None, first * self.accumulate)
        batches = iter(self.loader)
        while True:
            yield list(itertools.islice(batches, self.accumulate))


class NumberedBatches(Sampler):
    """Batches of ``((pass, number of the sample in it), index)``; numbers count over all ranks.

    Args:
        batch_sampler: yields lists of indices.
        rank, world_size: samples are distributed to the ranks in turn, as by mmengine's samplers.
    """

    def __init__(self, batch_sampler: Sampler, rank: int, world_size: int) -> None:
        self.batch_sampler = batch_sampler
        self.rank = rank
        self.world_size = world_size
        self.take(0, 0)

    def __getattr__(self, name: str) -> Any:
        if name == "batch_sampler":
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)  # `sampler`, `batch_size` ...

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def take(self, epoch: int | None, first: int) -> None:
        """Set what comes next: pass ``epoch``, or all passes if ``None``; skip ``first`` batches."""
        self.epochs = itertools.count() if epoch is None else (epoch,)
        self.first = first

    def __iter__(self) -> Iterator[list[tuple[tuple[int, int], Any]]]:
        left = self.first
        for epoch in self.epochs:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            seen = 0  # by this rank in this pass
            for batch in self.batch_sampler:  # an infinite sampler's only pass has no end
                if left:
                    left -= 1
                else:
                    yield [
                        ((epoch, (seen + i) * self.world_size + self.rank), index)
                        for i, index in enumerate(batch)
                    ]
                seen += len(batch)
            if not seen:
                raise ArgumentError("the training set has no whole batch; lower train_dataloader.batch_size")


class SeededDataset(Dataset):
    """Seeds every random number generator before each sample; otherwise behaves as the dataset."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getattr__(self, name: str) -> Any:
        # `__getitems__` would bypass the seeding
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set attributes on the dataset; hooks such as mmdet's ``PipelineSwitchHook`` do so during a run."""
        owner = self if name in ("dataset", "seed") else self.dataset
        object.__setattr__(owner, name, value)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, numbered: tuple[tuple[int, int], Any]) -> Any:
        (epoch, number), index = numbered
        seed_all(self.seed, SAMPLE, epoch, number)
        return self.dataset[index]
