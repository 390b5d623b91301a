"""Replace the backbone of every config of mmdet and mmseg by a ConvNeXt and test each: `make zoo`."""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

import convnext_dense.mm  # noqa: F401  (the ops, before the configs import their toolboxes)
from convnext_dense.mm.swap.survey import counts, read_verdicts, structures, survey_one
from convnext_dense.mm.swap.survey_report import survey_page
from convnext_dense.support.files import write_json, write_text


def survey(args: argparse.Namespace) -> None:
    """Test what is not yet in the record; each verdict is written at once."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    known = [structure for package in args.packages for structure in structures(package)[0]]
    done = {verdict.name for verdict in read_verdicts(args.out)}
    waiting = [structure for structure in known if structure.name not in done]
    with (
        ProcessPoolExecutor(args.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool,
        args.out.open("a") as file,
    ):
        running = [pool.submit(survey_one, structure) for structure in waiting]
        for future in tqdm(as_completed(running), total=len(running), unit="model"):
            file.write(json.dumps(future.result()._asdict()) + "\n")
            file.flush()
    print(counts(read_verdicts(args.out)))


def write_docs(args: argparse.Namespace) -> None:
    """Write the page and the JSON from one record or several, ``LABEL=FILE``."""
    named = dict(item.split("=", 1) for item in args.docs)
    surveys = {label: sorted(read_verdicts(Path(file))) for label, file in named.items()}
    write_text("docs/zoo.md", survey_page(surveys, args.note))
    write_json("docs/zoo.json", {label: [v._asdict() for v in found] for label, found in surveys.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", default=["mmdet", "mmseg"], help="default: mmdet mmseg")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--out", type=Path, default=Path("results/zoo.jsonl"), help="record to resume")
    parser.add_argument(
        "--docs", nargs="+", metavar="LABEL=FILE", help="write docs/zoo.md and docs/zoo.json from records"
    )
    parser.add_argument("--note", default="", help="a sentence for the page: how the records were made")
    args = parser.parse_args()
    (write_docs if args.docs else survey)(args)


if __name__ == "__main__":
    main()
