"""Kill training at random, fill its disk, watch its memory; it must end with the bits of an undisturbed run.

python tools/dev/soak.py              # 20 kills each, 2000 steps for the memory: ten minutes on two cores
python tools/dev/soak.py --kills 3 --memory-steps 0
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.errors import UserError
from convnext_dense.mm.bench import soak
from convnext_dense.mm.errors import one_line_errors

BYTES_A_STEP = 4096  # the log keeps every value; the leak of a single feature map would be far more


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="kills of each task (default: 20)")
    parser.add_argument("--steps", type=int, default=160, help="steps of a killed run (default: 160)")
    parser.add_argument("--memory-steps", type=int, default=2000, help="default: 2000; 0 skips it")
    parser.add_argument("--seed", type=int, help="seed of times and signals (default: drawn, and printed)")
    parser.add_argument("--out", type=Path, help="new folder, kept (default: a temporary one)")
    args = parser.parse_args()
    seed = random.randrange(10**6) if args.seed is None else args.seed
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {text}", flush=True)

    with one_line_errors(), tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        if args.kills < 1 or args.steps < 4:
            raise UserError(f"--kills {args.kills} --steps {args.steps}: at least 1 kill and 4 steps")
        folder = (args.out or Path(temporary)).resolve()
        if args.out and args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            raise UserError(f"--out {args.out}: give a new or empty folder; finished runs cannot be killed")
        say(f"times and signals from --seed {seed}; folder {folder}")
        # detection runs four epochs of steps / 4 steps, each of 2 batches of 2 scenes
        make_shapes(folder / "shapes", train=args.steps, val=4, size=96)
        try:
            for task in ("segmentation", "detection"):
                survive(task, folder, args.steps, args.kills, random.Random(f"{task} {seed}"), say)
            if args.memory_steps:
                watch_memory(folder, args.memory_steps, say)
        except soak.SoakError as error:
            say(f"FAILED: {error}")
            return 1
    say("all runs ended with the same bits; no processes or partial files are left")
    return 0


def survive(task: str, folder: Path, steps: int, kills: int, rng: random.Random, say) -> None:
    """Run one task undisturbed, killed, and on a full disk."""
    case = soak.make_case(task, folder, folder / "shapes", steps)
    say(f"{task}: {steps} steps, undisturbed")
    alone = soak.run_through(case, folder / f"{task}_alone")
    killed, count = folder / f"{task}_killed", 0
    say(f"{task}: up to {kills} kills")
    for count, kill in enumerate(soak.kill_at_random(case, killed, kills, rng), 1):
        say(f"  {count:2d}  {kill.signal} to the {kill.to:<8} after {kill.reached:<22} status {kill.status}")
    tensors = soak.check_same(alone, soak.run_through(case, killed))
    say(f"{task}: {count} kills, then the same bits in {tensors} tensors, optimizer, average and metrics")
    full = folder / f"{task}_full"
    how = soak.fill_the_disk(case, full, megabytes=70)
    soak.check_same(alone, full.with_name(f"{full.name}.pth"))
    say(f"{task}: disk full ({how}), one clear line, whole checkpoints; with space again the same bits")


def watch_memory(folder: Path, steps: int, say) -> None:
    """Train a small model for many steps."""
    say(f"memory over {steps} steps")
    make_shapes(folder / "small", train=16, val=2, size=64)
    case = soak.make_case("segmentation", folder / "memory", folder / "small", steps, small=True)
    slope, resident = soak.memory_slope(case, folder / "memory" / "run")
    told = f"memory grows by {slope:.0f} bytes per step at {resident / 2**20:.0f} MiB"
    if slope > BYTES_A_STEP:
        raise soak.SoakError(f"{told}; the bound is {BYTES_A_STEP}")
    say(told)


if __name__ == "__main__":
    sys.exit(main())
