"""The arithmetic of a preflight, and its report: what a run needs, and what prevents it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

GIB = 2**30
USABLE = 0.9  # share of the free memory: the rest is for fragmentation, other batches and other processes
NAMED = 8  # files named per kind of fault


# ---------------------------------------------------------------------------------------------- memory


class Line(NamedTuple):
    """Memory of a step as a function of its images, in bytes: ``fixed + per_image * images``."""

    fixed: float
    per_image: float

    def at(self, images: int) -> float:
        """Bytes that a step of ``images`` images takes."""
        return self.fixed + self.per_image * images


def memory_line(measured: Mapping[int, int]) -> Line | None:
    """Fit a line through the smallest and the largest batch measured.

    Args:
        measured: images -> additional bytes that the step took.

    Returns:
        ``None`` where memory does not grow with the batch, or only one batch was measured.
    """
    small, large = min(measured, default=0), max(measured, default=0)
    if small == large:
        return None
    per_image = (measured[large] - measured[small]) / (large - small)
    # the fixed part cannot be negative: then all of it belongs to the images
    fixed = measured[small] - per_image * small
    if per_image <= 0:
        return None
    return Line(fixed, per_image) if fixed >= 0 else Line(0.0, measured[large] / large)


def largest_batch(line: Line, free: int, usable: float = USABLE) -> int:
    """Images of the largest step that fits into ``usable`` of ``free`` bytes; 0 if none does."""
    return max(0, int((free * usable - line.fixed) / line.per_image))


# ------------------------------------------------------------------------------------------------ time


class Pace(NamedTuple):
    """Seconds that the parts of a run take, on one of its processes.

    Attributes:
        largest: seconds to train on a batch of the largest shape.
        share: area of a usual batch as a share of the largest's.
        loading: seconds until the workers have the next batch.
        overlap: whether batches are loaded during training on others.
        image: seconds for one validation image.
    """

    largest: float
    share: float = 1.0
    loading: float = 0.0
    overlap: bool = True
    image: float = 0.0

    def batch(self, share: float) -> float:
        """Seconds to train on a batch of ``share`` of the largest area, and to wait for it."""
        training = self.largest * share
        return max(training, self.loading) if self.overlap else training + self.loading

    @property
    def starved(self) -> bool:
        """Whether waiting for a usual batch takes longer than training on it."""
        return self.loading > self.largest * self.share


class Length(NamedTuple):
    """Length of a run.

    Attributes:
        steps: optimizer steps left.
        accumulate: batches per step.
        evaluations: number of evaluations.
        val_images: images of each evaluation on one process.
    """

    steps: int
    accumulate: int = 1
    evaluations: int = 0
    val_images: int = 0


def run_seconds(pace: Pace, length: Length) -> tuple[float, float, float]:
    """Seconds of training on usual batches, on largest batches alone, and of the evaluations."""
    batches = length.steps * length.accumulate
    evaluating = length.evaluations * length.val_images * pace.image
    return batches * pace.batch(pace.share), batches * pace.batch(1.0), evaluating


def evaluations(end: int, interval: int, begin: int = 1) -> int:
    """Evaluations of a run of ``end`` epochs or steps: every ``interval`` from ``begin`` on, and the last."""
    return len({n for n in (*range(interval, end + 1, interval), end) if n >= begin})


def duration(seconds: float) -> str:
    """``42 s``, ``12 min``, ``3.4 h`` or ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


# ------------------------------------------------------------------------------------------------ disk


class Disk(NamedTuple):
    """Checkpoints of a run.

    Attributes:
        whole: bytes of a checkpoint to resume from.
        weights: bytes of one without the optimizer, as for the best.
        regular: kept checkpoints to resume from, including the recent one.
        best: number of checkpoints of best metrics.
    """

    whole: int
    weights: int
    regular: int
    best: int = 0

    @property
    def most(self) -> int:
        """Peak bytes: a new checkpoint is complete before an old one is removed."""
        return (self.regular + 1) * self.whole + self.best * self.weights


def regular_checkpoints(length: int, interval: int, keep: int, recent: bool, last: bool = True) -> int:
    """Number of checkpoints to resume from on disk at the end, or just before it.

    Args:
        length: epochs or steps of the run.
        interval: epochs or steps between checkpoints; 0 or less for none.
        keep: how many are kept; 0 or less for all.
        recent: whether a checkpoint by time exists until the end.
        last: whether the end of the run is saved in any case.
    """
    written = length // interval if interval > 0 else 0
    if interval > 0 and last and length % interval:
        written += 1
    return (min(written, keep) if keep > 0 else written) + recent


def gib(size: float) -> str:
    """Bytes in GiB, or in MiB below 0.1 GiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


# ---------------------------------------------------------------------------------------------- report


class Report:
    """Prints lines as they become known, and collects problems.

    Args:
        tell: function that prints a line; on processes other than the first it does nothing.
    """

    def __init__(self, tell: Callable[[str], None] = print) -> None:
        self.tell = tell
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def say(self, topic: str, text: str, mark: str = "") -> None:
        """Print one line of the report."""
        self.tell(f"{mark:<8}{topic:<12} {text}".rstrip())

    def problem(self, topic: str, text: str, files: Mapping[str, str] | None = None) -> None:
        """Report what stops the run or spoils it; ``text`` has the remedy."""
        self.problems.append(f"{topic}: {text}")
        self.say(topic, text, "PROBLEM")
        self._name(files or {})

    def warn(self, topic: str, text: str, files: Mapping[str, str] | None = None) -> None:
        """Report a fault that does not stop the run."""
        self.warnings.append(f"{topic}: {text}")
        self.say(topic, text, "warning")
        self._name(files or {})

    def _name(self, files: Mapping[str, str]) -> None:
        """Print the files after the first, which the line before has named."""
        others = sorted(files.items())[1:]
        for path, detail in others[: NAMED - 1]:
            self.say("", f"  {path}" + (f" ({detail})" if detail else ""))
        if len(others) >= NAMED:
            self.say("", f"  and {len(others) - NAMED + 1} more")

    @property
    def ready(self) -> bool:
        """Whether the run can start."""
        return not self.problems

    def verdict(self) -> str:
        """Print the last line, or one line per problem."""
        warned = f", {_count(self.warnings, 'warning')}" if self.warnings else ""
        if self.ready:
            return f"ready{warned}"
        return "\n".join(
            [f"not ready: {_count(self.problems, 'problem')}{warned}", *(f"  {p}" for p in self.problems)]
        )


def _count(items: Sequence, what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"
