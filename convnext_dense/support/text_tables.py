"""Tables as aligned text for a terminal."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], columns: str = "l") -> str:
    """Rows of cells -> text with columns of equal width, two spaces apart.

    Args:
        rows: rows with the same number of cells.
        columns: ``l`` or ``r`` for each column; the last letter holds for all further ones.
    """
    table = list(zip(*rows, strict=True))
    sides = columns.ljust(len(table), columns[-1])
    padded = [
        [cell.rjust(width) if side == "r" else cell.ljust(width) for cell in column]
        for column, side in zip(table, sides, strict=True)
        for width in [max(map(len, column))]
    ]
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))
