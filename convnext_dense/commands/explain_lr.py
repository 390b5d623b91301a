"""Show the parameter groups and learning rates of a recipe without training, data or weights."""

import argparse
import json
from collections.abc import Sequence

from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.config.lr_plan import GroupPlan, Plan, draw, make_plan
from convnext_dense.mm.config.sections import check_needed
from convnext_dense.mm.engine.options import add_traceback
from convnext_dense.mm.errors import one_line_errors
from convnext_dense.support.text_tables import aligned


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="path of a config, or a recipe's name such as cascade/convnext_b_3x")
    parser.add_argument("--json", action="store_true", help="print the groups as JSON")
    parser.add_argument("--plot", metavar="FILE", help="write the curves to an image")
    parser.add_argument(
        "--iters-per-epoch", type=int, metavar="N", help="for recipes by epoch (default: COCO train2017's)"
    )
    add_traceback(parser)
    args = parser.parse_args(argv)
    with one_line_errors(args.traceback):
        cfg = load_config(args.config)
        check_needed(cfg, "rates")
        plan = make_plan(cfg, args.iters_per_epoch)
        if args.plot:
            draw(plan, args.plot, title=args.config)
        print(as_json(plan) if args.json else as_table(plan))


def as_json(plan: Plan) -> str:
    groups = [group._asdict() for group in plan.groups]
    return json.dumps(dict(iterations=len(plan.rates), groups=groups), indent=1)


def as_table(plan: Plan) -> str:
    """One line per group, from the input to the heads."""
    header = ("layer", "tensors", "params", "lr start", "peak", "end", "weight decay", "what is in it")
    table = aligned([header, *(row(group) for group in plan.groups)], "rrrrrrrl")
    tensors = sum(group.tensors for group in plan.groups)
    params = sum(group.params for group in plan.groups)
    total = f"{len(plan.groups)} groups, {tensors} tensors, {params:,} trained parameters"
    return f"{table}\n{total}, {len(plan.rates):,} iterations"


def row(group: GroupPlan) -> tuple[str, ...]:
    layer = "all" if group.layer is None else str(group.layer)
    rates = (f"{rate:.4g}" for rate in (group.lr_start, group.lr_peak, group.lr_end))
    return (
        layer, str(group.tensors), f"{group.params:,}", *rates, f"{group.weight_decay:g}", group.contents
    )  # fmt: skip
