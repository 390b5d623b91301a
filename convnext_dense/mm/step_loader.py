"""Training data of one optimizer step at a time, from any step of the run on."""

import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from convnext_dense.seeding import SAMPLE, seed_all


class StepLoader:
    """Lists of ``accumulate`` batches, whose augmentations follow from the seed and the place in the run.

    Sample ``n`` of the run, counted over all ranks, is drawn from ``(seed, n)``, whichever worker of any
    rank loads it. So a run goes on exactly from any step, on another number of workers or ranks, too. What
    was seen before is skipped by index; no image is read for it.

    Anything else is asked of the ``DataLoader`` behind: ``dataset``, ``sampler``, ``num_workers`` ...

    Args:
        loader: as mmengine builds it.
        accumulate: batches of a step.
        seed: of the run.
        rank, world_size: of this process.
    """

    def __init__(
        self, loader: DataLoader, accumulate: int = 1, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.accumulate = accumulate
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
        if name == "loader":  # not there yet
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        """Steps of one pass over the data; the last one may have fewer batches."""
        return -(-len(self.loader) // self.accumulate)

    def __iter__(self) -> Iterator[list]:
        return self.epoch(0)

    def epoch(self, number: int, first: int = 0) -> Iterator[list]:
        """The steps of pass ``number`` over the data, from step ``first`` of it on."""
        self.batches.take(number, first * self.accumulate)
        batches = iter(self.loader)
        while step := list(itertools.islice(batches, self.accumulate)):
            yield step

    def endless(self, first: int = 0) -> Iterator[list]:
        """Steps without end, from step ``first`` of the run on."""
        self.batches.take(None, first * self.accumulate)
        batches = iter(self.loader)
        while True:
            yield list(itertools.islice(batches, self.accumulate))


class NumberedBatches(Sampler):
    """Batches of ``(number of the sample in the run, index)``.

    Args:
        batch_sampler: yields lists of indices.
        rank, world_size: samples are dealt to the ranks in turn, as mmengine's samplers do.
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
        """What comes next: pass ``epoch``, or all passes if ``None``, without the first ``first`` batches."""
        self.epochs = itertools.count() if epoch is None else (epoch,)
        self.before = 0 if epoch is None else epoch * len(self.batch_sampler)
        self.skipped = range(self.before, self.before + first)

    def __iter__(self) -> Iterator[list[tuple[int, Any]]]:
        number = self.before
        for epoch in self.epochs:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            start = number
            for batch in self.batch_sampler:  # an infinite sampler's only pass has no end
                if number not in self.skipped:
                    yield self._numbered(number, batch)
                number += 1
            if number == start:
                raise ValueError("the training set has no whole batch; lower train_dataloader.batch_size")

    def _numbered(self, number: int, batch: list) -> list[tuple[int, Any]]:
        start = number * _largest(self.batch_size)
        return [((start + i) * self.world_size + self.rank, index) for i, index in enumerate(batch)]


def _largest(batch_size: int | list[int]) -> int:
    """mmdet's sampler of several sources has a batch size for each."""
    return batch_size if isinstance(batch_size, int) else max(batch_size)


class SeededDataset(Dataset):
    """Seeds every random number generator before each sample; anything else is the dataset's own."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getattr__(self, name: str) -> Any:
        # `__getitems__` would go round the seeding
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, numbered: tuple[int, Any]) -> Any:
        number, index = numbered
        seed_all(self.seed, SAMPLE, number)
        return self.dataset[index]
