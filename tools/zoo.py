"""Swap the backbone of every config of mmdet and mmseg by a ConvNeXt and try each: `make zoo`."""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from convnext_dense.mm.zoo import counts, read_verdicts, structures, survey_one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", default=["mmdet", "mmseg"], help="default: mmdet mmseg")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--out", type=Path, default=Path("results/zoo.jsonl"), help="goes on where it is")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every Nth structure, from the Ith")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    import convnext_dense.mm  # noqa: F401  (the ops, before the configs import their toolboxes)

    known = [structure for package in args.packages for structure in structures(package)[0]]
    index, number = map(int, args.shard.split("/"))
    done = {verdict.name for verdict in read_verdicts(args.out)}
    waiting = [s for i, s in enumerate(known) if i % number == index and s.name not in done]
    # one model a process and then a fresh one: toolboxes keep global state, and a crash takes nothing along
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(args.jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        args.out.open("a") as file,
    ):
        running = [pool.submit(survey_one, structure) for structure in waiting]
        for future in tqdm(as_completed(running), total=len(running), unit="model"):
            file.write(json.dumps(future.result()._asdict()) + "\n")
            file.flush()
    print(counts(read_verdicts(args.out)))


if __name__ == "__main__":
    main()
