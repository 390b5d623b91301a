"""Tables: as aligned text for a terminal, and as Markdown for pages that are written again and again."""

from collections.abc import Sequence

from convnext_dense.errors import ArgumentError


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


def markdown(rows: Sequence[Sequence[str]], columns: str = "l") -> str:
    """Rows of cells, the first of them the head -> a Markdown table; each line ends with a line break.

    A ``|`` inside a cell is escaped, or it would end the cell.

    Args:
        rows: rows with the same number of cells.
        columns: as for `aligned`.
    """
    head, *lines = rows
    sides = columns.ljust(len(head), columns[-1])[: len(head)]
    rule = ["---:" if side == "r" else "---" for side in sides]
    if any(len(line) != len(head) for line in lines):
        raise ValueError(f"rows of other lengths than the head, which has {len(head)} cells")
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *escaped))


def replace_between(text: str, begin: str, end: str, section: str) -> str:
    """Replace what stands between the line ``begin`` and ``end``, which stay.

    Args:
        text: content of a file.
        begin: comment that stands on a line of its own.
        end: comment that starts a line.
        section: the new lines between them.

    Raises:
        ArgumentError: one of the two is missing.
    """
    before, found, rest = text.partition(f"{begin}\n")
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ArgumentError(f"no place for the table: the text needs the lines {begin} and {end}")
    return f"{before}{begin}\n{section}{end}{after}"
