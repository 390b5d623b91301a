"""Pascal VOC's annotation files: one XML file per image."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from convnext_dense.data.check import Problem, gather

SIDES = ("xmin", "ymin", "xmax", "ymax")


class XmlCheck:
    """Collects the faults of annotation files, checked one by one.

    Attributes:
        names: names in the list of the data set, so far.
        objects: number of objects by the name of their class.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.objects: Counter[str] = Counter()
        self.missing: dict[str, str] = {}
        self.damaged: dict[str, str] = {}

    def add(self, name: str, path: Path) -> None:
        """Check the file of one name."""
        self.names.append(name)
        try:
            root = ElementTree.parse(path).getroot()
        except FileNotFoundError:
            extra = len(name.split()) > 1
            self.missing[str(path)] = "a line of the list holds one name and nothing else" if extra else ""
            return
        except (OSError, ElementTree.ParseError, UnicodeDecodeError) as error:
            self.damaged[str(path)] = str(error)
            return
        if fault := _fault(root):
            self.damaged[str(path)] = fault
        self.objects.update((item.findtext("name") or "").strip() for item in root.iter("object"))

    def problems(self, source: str) -> list[Problem]:
        """The problems found so far, of the list ``source``."""
        return [
            *gather(f"annotation files of {source} that are not there", self.missing),
            *gather("annotation files that cannot be used", self.damaged),
        ]


def _fault(root: ElementTree.Element) -> str:
    """What mmdet cannot read in a file; empty if nothing."""
    size = root.find("size")
    if size is not None and not all(_is_number(size.findtext(side), int) for side in ("width", "height")):
        return "its size has no width and height"
    for item in root.iter("object"):
        name = item.findtext("name")
        if name is None:
            return "an object has no name"
        box = item.find("bndbox")
        if box is None or not all(_is_number(box.findtext(side), float) for side in SIDES):
            return f"the object {name} has no box with {', '.join(SIDES)}"
    return ""


def _is_number(text: str | None, kind: type) -> bool:
    try:
        kind(text)
    except (TypeError, ValueError):
        return False
    return True
