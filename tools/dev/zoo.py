"""Replace the backbone of every config of mmdet and mmseg by a ConvNeXt and test each: `make zoo`."""

import argparse
import datetime
import json
from pathlib import Path

from tqdm import tqdm

import convnext_dense.mm  # noqa: F401  (the ops, before the configs import their toolboxes)
from convnext_dense.mm.swap import survey
from convnext_dense.mm.swap.structures import read_structures
from convnext_dense.mm.swap.survey_key import changed, deciding_code, environment
from convnext_dense.mm.swap.survey_report import survey_page
from convnext_dense.support.files import write_json, write_text

RECORD = Path("docs/zoo.json")


def kept_columns() -> dict[str, survey.Column]:
    """The columns of the record by name."""
    columns = json.loads(RECORD.read_text())["columns"] if RECORD.is_file() else []
    return {column.name: column for column in map(survey.from_json, columns)}


def begin(kept: dict[str, survey.Column], folder: Path) -> tuple[survey.Column, Path]:
    """This environment's column with all verdicts of the present code, and the file for further ones."""
    structures, left_out = read_structures()
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    column = survey.Column(today, environment(), deciding_code(), structures, left_out, {})
    running = folder / f"{column.name.replace(', ', '_').replace(' ', '_')}.jsonl"
    known = dict(survey.read_verdicts(running, column.key))
    if (old := kept.get(column.name)) and old.key == column.key:
        known, column = {**old.verdicts, **known}, column._replace(date=old.date)
    verdicts = {s.digest: known[s.digest] for s in structures if s.digest in known}
    return column._replace(verdicts=verdicts), running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--memory", type=int, default=survey.MEMORY, help="GiB of one process (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("results/zoo"), help="folder of running records")
    parser.add_argument("--most", type=int, help="structures to test now (default: all without a verdict)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = kept_columns()
    column, running = begin(kept, args.out)
    old = kept.get(column.name)
    if old and old.key != column.key:
        new = [*changed(old.code, column.code), *changed(old.environment, column.environment)]
        print(f"{RECORD} holds for other code or versions: {', '.join(new)}")
    todo = survey.waiting(column, old.verdicts if old else {})[: args.most]
    known = f"{len(column.verdicts)} of {len(column.structures)} structures have a verdict"
    print(f"{column.name}, key {column.key}: {known}")
    found = dict(column.verdicts)
    results = survey.run_survey(todo, survey.tried_before(column), args.jobs, args.memory)
    try:
        for structure, verdict in tqdm(results, total=len(todo), unit="structure"):
            if verdict is None:
                print(f"no verdict on {structure.name}: its process was stopped, or needs more --memory")
                continue
            survey.append_verdict(running, column.key, structure, verdict)
            found[structure.digest] = verdict
    finally:
        kept[column.name] = column._replace(verdicts=found)
        columns = [kept[name] for name in survey.COLUMNS if name in kept]
        write_json(RECORD, {"columns": [survey.to_json(each) for each in columns]})
        write_text(RECORD.with_suffix(".md"), survey_page(columns, deciding_code()))


if __name__ == "__main__":
    main()
