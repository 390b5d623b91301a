"""Write a recipe to a file that you can edit: complete, without `_base_`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from convnext_dense.errors import UserError
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.errors import one_line_errors
from convnext_dense.recipes import config_path
from convnext_dense.support.command_line import command_for
from convnext_dense.support.files import write_text


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="name, such as cascade/convnext_b_3x")
    parser.add_argument("file", type=Path, metavar="FILE.py", help="config to write")
    parser.add_argument("--force", action="store_true", help="replace FILE.py where it exists")
    args = parser.parse_args(argv)
    with one_line_errors():
        copy_recipe(args.recipe, args.file, args.force)
    print(f"wrote {args.file}; next: {command_for('train')} {args.file} --data-root ...")


def copy_recipe(recipe: str, out: Path, force: bool) -> None:
    """Write the recipe with everything that it inherits to ``out``.

    Raises:
        UserError: an unknown recipe, a name that mmengine does not read, or a file that exists.
    """
    if out.suffix != ".py":
        raise UserError(f"{out}: a config is a file that ends in .py")
    if out.exists() and not force:
        raise UserError(f"{out} exists; --force replaces it")
    try:
        path = config_path(recipe)
    except ValueError as error:
        raise UserError(str(error)) from None
    name = path.relative_to(path.parents[1]).with_suffix("").as_posix()
    head = f"# The recipe {name} of convnext_dense with everything that it inherits.\n"
    write_text(out, head + load_config(str(path)).pretty_text)
