"""Time and memory of a start with COCO's number of annotations: stock mmdet, our first start, and later ones.

    python tools/dev/bench_annotations.py --like FOLDER/annotations/instances_train2017.json --out /tmp/large
    python tools/dev/bench_annotations.py --images 20000      # scenes of shapes, a sixth of COCO

The annotations of the given file (default: synthetic scenes) are repeated until there are 118,287 images.
Every figure is from a process of its own, with one thread. Times are CPU seconds of that process and its
workers; memory is in GiB. PSS divides the pages that several processes map among them.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.support.files import write_text
from convnext_dense.support.system import proc_bytes
from convnext_dense.support.text_tables import aligned

CASES = {
    "torch": "import torch and mmdet",
    "stock": "mmdet's CocoDataset",
    "first": "ours, first start",
    "later": "ours, later start",
    "run": "whole later start, up to the first batch",
}
RECIPE = "mask_rcnn/convnext_t_3x"


def repeat(source: Path, images: int, out: Path) -> None:
    """Write the annotations of ``source`` as often as needed, with new ids; images are links to the same."""
    content = json.loads(source.read_text())
    count = -(-images // len(content["images"]))
    folder = source.parents[1] / source.stem.removeprefix("instances_")
    (out / folder.name).mkdir(parents=True, exist_ok=True)
    more: dict[str, list] = {"images": [], "annotations": []}
    for turn in range(count):
        shift = turn * 1_000_000_000
        for image in content["images"]:
            name = f"{turn:05d}_{image['file_name']}"
            link = out / folder.name / name
            if (folder / image["file_name"]).is_file() and not link.is_symlink():
                link.symlink_to((folder / image["file_name"]).resolve())
            more["images"].append({**image, "id": image["id"] + shift, "file_name": name})
        for annotation in content["annotations"]:
            ids = dict(id=annotation["id"] + shift, image_id=annotation["image_id"] + shift)
            more["annotations"].append({**annotation, **ids})
    write_text(out / "annotations" / source.name, json.dumps({**content, **more}))
    for split in ("val2017", "annotations/instances_val2017.json"):
        if not (out / split).exists():
            (out / split).symlink_to((source.parents[1] / split).resolve())


def dataset_of(case: str, file: Path) -> object:
    """The training set without a pipeline, as mmdet or as a run of ours builds it."""
    from mmengine.registry import DATASETS, init_default_scope

    init_default_scope("mmdet")
    data = dict(
        type="CocoDataset",
        ann_file=str(file),
        data_prefix=dict(img=f"{file.parents[1] / file.stem.removeprefix('instances_')}/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[],
    )
    if case != "stock":
        cache = str(file.parents[1] / "cache")
        data = dict(type="CheckedDataset", dataset=data, on_fault="skip", masks=True, cache=cache)
    return DATASETS.build(data)


def first_batch(root: Path) -> None:
    """Build the run of a recipe and load its first batch."""
    from convnext_dense.mm.apis.train import TrainOptions, training_runner

    entries = {"train_dataloader.num_workers": 0, "train_dataloader.persistent_workers": False}
    runner = training_runner(
        RECIPE,
        TrainOptions(
            data_root=str(root),
            work_dir=str(root / "run"),
            cache=str(root / "cache_of_run"),
            device="cpu",
            pretrained="none",
            overrides=entries,
        ),
    )
    # the config of the loader with its checks, from which training builds it
    next(iter(runner.build_dataloader(runner._train_dataloader, seed=0)))  # noqa: SLF001


def measure(case: str, file: Path) -> dict[str, float]:
    """Figures of one case, in this process."""
    if case == "run":
        first_batch(file.parents[1])
        return figures()
    import convnext_dense.mm  # noqa: F401, I001  offers mmcv's operators, which mmdet imports
    import mmdet.datasets  # noqa: F401

    if case == "torch":
        return figures()
    dataset = dataset_of(case, file)
    found = dict(figures(), entries=len(dataset))
    if case == "later":
        from torch.utils.data import DataLoader

        loader = DataLoader(dataset, batch_size=64, num_workers=2, collate_fn=_pss, shuffle=True)
        shares = dict(pss for pss in loader)
        found |= {"pss of two workers": sum(shares.values()), "pss": memory("Pss")}
    return found


def _pss(entries: list) -> tuple[int, float]:
    """Process id and PSS of a worker that has just read entries."""
    return os.getpid(), memory("Pss")


def figures() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu s": used.ru_utime + used.ru_stime,
        # not ru_maxrss, which starts with what the parent had
        "peak": proc_bytes("/proc/self/status", "VmHWM") / 2**30,
        "resident": memory("Rss"),
    }


def memory(kind: str) -> float:
    return proc_bytes("/proc/self/smaps_rollup", kind) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--like", type=Path, metavar="FILE", help="annotation file to repeat")
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/bench_annotations"))
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.like)))
        return
    source = args.like
    if source is None:
        make_shapes(args.out / "shapes", train=50, val=2, size=96)
        source = args.out / "shapes/coco/annotations/instances_train2017.json"
    file = args.out / "annotations" / "instances_train2017.json"
    repeat(source, args.images, args.out)
    print(f"{file}: {file.stat().st_size / 2**20:.0f} MiB")
    rows = [("case", "cpu s", "peak", "resident", "other")]
    for turn in range(args.repeats):
        shutil.rmtree(args.out / "cache", ignore_errors=True)
        for case in CASES:
            if case == "run" and turn == 0:
                run(case, file)  # the first start, which writes the cache of this recipe
            found = run(case, file)
            other = {key: round(found[key], 2) for key in found if key not in ("cpu s", "peak", "resident")}
            rows.append(
                (CASES[case], *(f"{found[k]:.2f}" for k in ("cpu s", "peak", "resident")), str(other))
            )
            print(rows[-1], flush=True)
    print(aligned(rows))


def run(case: str, file: Path, script: str = __file__) -> dict[str, float]:
    """Figures of one case, in a process of its own."""
    command = [sys.executable, "-W", "ignore", script, "--case", case, "--like", str(file)]
    start = time.monotonic()
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout.splitlines()[-1]), "wall s": time.monotonic() - start}


if __name__ == "__main__":
    main()
