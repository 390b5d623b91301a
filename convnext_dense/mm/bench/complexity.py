"""Complexity of the rows of the paper's tables, and of any config, beside the paper's figures."""

from convnext_dense.bench.complexity import Comparison, classifier_complexity
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.models.complexity import config_complexity
from convnext_dense.recipes import list_configs
from convnext_dense.results import paper


def compare(name: str, shape: tuple[int, int] | None = None) -> Comparison:
    """Count a row of the paper's tables, or any config, and add the paper's figures.

    Args:
        name: row or recipe such as ``cascade/convnext_b_3x`` or ``imagenet/convnext_t_224``, or
            the path of a config.
        shape: (height, width) in pixels instead of the protocol's; the paper's MACs are then left out.

    Raises:
        UserError: neither a row, nor a recipe, nor a file.
        ValueError: no shape was given and the protocol has none.
    """
    row = paper.ROWS.get(name.removeprefix("configs/").removesuffix(".py"))
    if isinstance(row, paper.ImageNetRow):
        counted = classifier_complexity(row.arch, *(shape or (row.size, row.size)))
    else:
        counted = config_complexity(load_config(name), shape)
    if row is None:
        return Comparison(name, counted)
    return Comparison(row.name, counted, row.params_m, None if shape else row.macs_g)


def countable_rows() -> list[str]:
    """Rows of the paper's tables that this installation can build."""
    recipes = set(list_configs())
    return [name for name, row in paper.ROWS.items() if name in recipes or isinstance(row, paper.ImageNetRow)]
