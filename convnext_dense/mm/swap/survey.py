"""Survey: swap the backbone of every config in mmdet and mmseg, and try the result.

A column of the survey is what was found with one line of the toolboxes and one kind of operators. Its
verdicts hold for one key (:mod:`convnext_dense.mm.swap.survey_key`).
"""

import contextlib
import json
import multiprocessing
import queue
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from convnext_dense.mm.swap.structures import Structure
from convnext_dense.mm.swap.survey_key import key_of
from convnext_dense.mm.swap.verdict import Verdict, judge

COLUMNS = [f"{line}, {ops} operators" for line in ("official", "onedl") for ops in ("portable", "compiled")]
MEMORY = 12  # GiB of data of one process at most
NO_MEMORY = ("can't allocate memory", "MemoryError")  # how torch and Python say that there is no more
PATIENCE = 3600  # seconds after which a process that answers nothing is ended, without a verdict
PER_PROCESS = 100  # structures, then a new process: third-party code keeps memory


class Column(NamedTuple):
    """What was found with one line of the toolboxes and one kind of operators.

    Attributes:
        date: day on which the survey began, ``YYYY-MM-DD``, UTC.
        environment: line, operators and versions.
        code: module of this package -> checksum, for all that decide a verdict.
        structures: all of them, also those without a verdict.
        left_out: config files without a model, with the reason.
        verdicts: by digest of the structure.
    """

    date: str
    environment: Mapping[str, str]
    code: Mapping[str, str]
    structures: Sequence[Structure]
    left_out: Sequence[tuple[str, str]]
    verdicts: Mapping[str, Verdict]

    @property
    def name(self) -> str:
        """One of :data:`COLUMNS`."""
        return f"{self.environment['line']}, {self.environment['operators']} operators"

    @property
    def key(self) -> str:
        """The key for which the verdicts hold."""
        return key_of(self.code, self.environment)

    @property
    def complete(self) -> bool:
        """Whether every structure has a verdict."""
        return all(structure.digest in self.verdicts for structure in self.structures)


def to_json(column: Column) -> dict:
    """A column as plain values, one row per structure."""
    rows = []
    for structure in column.structures:
        verdict = column.verdicts.get(structure.digest)
        rows.append({**structure._asdict(), "verdict": verdict and verdict._asdict()})
    return {**column._asdict(), "key": column.key, "structures": rows, "verdicts": len(column.verdicts)}


def from_json(record: Mapping) -> Column:
    """The column that :func:`to_json` wrote.

    Raises:
        ValueError: the file says another key than its content gives.
    """
    rows = record["structures"]
    structures = [Structure(row["digest"], row["backbone"], tuple(row["members"])) for row in rows]
    verdicts = {row["digest"]: Verdict(**row["verdict"]) for row in rows if row["verdict"]}
    left_out = [(name, reason) for name, reason in record["left_out"]]
    column = Column(record["date"], record["environment"], record["code"], structures, left_out, verdicts)
    if column.key != record["key"]:
        raise ValueError(f"the key is {record['key']}, but code and environment give {column.key}")
    return column


# ---- the running record: a line per verdict, written at once


def append_verdict(path: Path, key: str, structure: Structure, verdict: Verdict) -> None:
    """Add a verdict to a running record."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, "digest": structure.digest, **verdict._asdict()}) + "\n")


def read_verdicts(path: Path, key: str) -> dict[str, Verdict]:
    """Verdicts of a running record with that key, by digest; a line cut off by an interruption is skipped."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.pop("key") == key:
            digest = row.pop("digest")
            found[digest] = Verdict(**row)
    return found


def waiting(column: Column, before: Mapping[str, Verdict]) -> list[Structure]:
    """Structures without a verdict, those first that did not pass before, as far as that is known.

    Args:
        column: the present one.
        before: verdicts of other code, by digest.
    """
    left = [structure for structure in column.structures if structure.digest not in column.verdicts]
    passed = {digest for digest, verdict in before.items() if verdict.outcome == "passes"}
    return sorted(left, key=lambda structure: structure.digest in passed)


def tried_before(column: Column) -> dict[str, str]:
    """Swapped models that have been tried -> why they fail, for :func:`judge`."""
    known = {"passes", "fails"}  # of the others, the reason is that of the old model, or there was no trial
    return {v.trial: v.reason for v in column.verdicts.values() if v.trial and v.outcome in known}


def sample(column: Column, seed: str, seconds: float) -> list[Structure]:
    """Structures that pass, drawn at random while their trials take at most ``seconds`` of CPU time in sum.

    What a trial takes is the time of the structure for which it was made, as recorded.

    Args:
        column: with verdicts.
        seed: the same seed draws the same structures.
        seconds: most CPU time in sum.
    """
    cost: dict[str, float] = {}
    for verdict in column.verdicts.values():
        cost[verdict.trial] = max(verdict.seconds, cost.get(verdict.trial, 0.0))
    passing = [s for s in column.structures if s.digest in column.verdicts]
    passing = [s for s in passing if column.verdicts[s.digest].outcome == "passes"]
    drawn = []
    for structure in random.Random(seed).sample(passing, len(passing)):
        seconds -= cost[column.verdicts[structure.digest].trial]
        if seconds < 0:
            break
        drawn.append(structure)
    return drawn


# ---- processes


class DiedError(Exception):
    """A process ended without an answer; the message says how."""


class _Process:
    """Judges one structure after the other in a process of its own, whose end is not ours."""

    def __init__(self, memory: int = MEMORY) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, memory), daemon=True)
        self.process.start()
        other.close()
        self.judged = 0

    def judge(self, name: str, tried: dict[str, str]) -> Verdict:
        """As the function. Raises ``DiedError`` if the process ends, ``TimeoutError`` if it is silent."""
        self.judged += 1
        try:
            self.pipe.send((name, dict(tried)))
            if self.pipe.poll(PATIENCE):
                verdict, new = self.pipe.recv()
                tried.update({digest: said for digest, said in new.items() if not lacked_memory(said)})
                return verdict
        except (EOFError, OSError):
            self.process.join()
            raise DiedError(f"the process ends with exit code {self.process.exitcode}") from None
        raise TimeoutError(f"no answer within {PATIENCE} s")

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


def _serve(pipe: Connection, memory: int) -> None:
    """Answer each name, with what has been tried, by its verdict and what was tried for it."""
    with contextlib.suppress(ImportError):  # absent on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory * 2**30, memory * 2**30))
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):  # the other end is closed
        while True:
            name, before = pipe.recv()
            tried = dict(before)
            verdict = judge(name, tried)
            pipe.send((verdict, {digest: tried[digest] for digest in tried.keys() - before.keys()}))


def run_survey(
    structures: Sequence[Structure], tried: dict[str, str], jobs: int, memory: int = MEMORY
) -> Iterator[tuple[Structure, Verdict | None]]:
    """Judge structures in ``jobs`` processes; yield each with its verdict as soon as there is one.

    A process that crashes (exit codes of faults in memory or arithmetic) is a verdict. One that does not
    answer, that something else ended, or that needs more memory gives ``None``: no verdict.

    Args:
        structures: in this order.
        tried: as for :func:`judge`; the processes share it.
        jobs: number of processes.
        memory: GiB of data of each process at most.
    """
    idle: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
    for _ in range(jobs):
        idle.put(None)

    def one(structure: Structure) -> tuple[Structure, Verdict | None]:
        process = idle.get() or _Process(memory)
        try:
            verdict = process.judge(structure.name, tried)
        except (DiedError, TimeoutError) as error:
            process.stop()
            idle.put(None)
            return structure, crash_verdict(process.process.exitcode, str(error))
        if process.judged >= PER_PROCESS:
            process.stop()
            process = None
        idle.put(process)
        return structure, None if lacked_memory(verdict.reason) else verdict

    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(one, structure) for structure in structures]):
            yield future.result()
    finally:  # an interruption does not wait for those that have not begun
        pool.shutdown(cancel_futures=True)


def lacked_memory(reason: str) -> bool:
    """Whether a model fails only because there is no more memory, which says nothing about it."""
    return any(words in reason for words in NO_MEMORY)


def crash_verdict(exitcode: int | None, reason: str) -> Verdict | None:
    """The verdict on a structure whose process ended: ``None`` if it was killed or stopped from outside."""
    faults = (-4, -6, -7, -8, -11)  # SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV
    return Verdict("fails", reason, "", 0.0) if exitcode in faults else None
