"""Tests of the tables' rows, each recorded once in ``results/accuracy.jsonl``."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from convnext_dense.mm.apis.test import Job, identity, run_protocol
from convnext_dense.results.records import find_record, read_records


class Measurement(NamedTuple):
    """Record of a test, and folder of its predictions; no folder if it was recorded before."""

    record: Mapping
    folder: Path | None


def measure(job: Job, results: Path, again: bool = False) -> Measurement | None:
    """Run one test and record it, unless it is recorded; ``None`` except in the first process.

    Args:
        job: the test.
        results: folder of the records; a new one becomes a line there.
        again: run the test even if it is recorded.

    Raises:
        UserError, DatasetNotFoundError, CheckpointError: see :mod:`convnext_dense.mm.errors`.
    """
    record = None if again else find_record(read_records(results), identity(job))
    if record:
        return Measurement(record, None)
    evaluation = run_protocol(job, results)
    return Measurement(evaluation.record, evaluation.folder) if evaluation else None
