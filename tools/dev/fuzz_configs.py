"""Damage recipes at random, build what training needs of each, and list what a user would see as our failure.

python tools/dev/fuzz_configs.py      # every recipe, 200 mistakes each: some hours on two cores
python tools/dev/fuzz_configs.py demo/mask_rcnn_shapes --count 20 --explained
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.bench.config_fuzz import try_mutations
from convnext_dense.recipes import list_configs


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="names (default: all)")
    parser.add_argument("--count", type=int, default=200, help="mistakes in each recipe (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the mistakes (default: 0)")
    parser.add_argument(
        "--data-root",
        metavar="FOLDER",
        help="data that the recipes accept (default: made; demo/camvid needs its own)",
    )
    parser.add_argument("--explained", action="store_true", help="also print the lines about the config")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        folder = Path(temporary)
        make_shapes(folder / "shapes", train=6, val=3, size=96)
        for recipe in args.recipes or list_configs():
            start = time.monotonic()
            root = folder / "shapes" / ("ade20k" if "upernet" in recipe else "coco")
            found = try_mutations(recipe, args.count, args.data_root or str(root), folder, args.seed)
            print(f"{recipe}: {dict(found.counts)}, {time.monotonic() - start:.0f} s", flush=True)
            lines = found.unexplained + found.explained * args.explained
            for mistake, line in lines:
                print(f"  {mistake} | {line}".replace(temporary, "."))
            failures += len(found.unexplained)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
