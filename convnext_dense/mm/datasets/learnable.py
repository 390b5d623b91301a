"""Whether the files of a run leave anything to learn and to compare with, and which classes they lack."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from convnext_dense.data.check import PairCheck
from convnext_dense.data.class_use import (
    MapUse,
    ObjectUse,
    absent_classes,
    map_use,
    object_use,
    trained_values,
)
from convnext_dense.data.coco_repair import Fault
from convnext_dense.mm.datasets.declared import detection_classes_of, label_maps_of
from convnext_dense.mm.datasets.paths import datasets_of, required_paths
from convnext_dense.support.nested import mappings


class Learnable:
    """Collects the labels of a run's data sets while their files are checked.

    Args:
        cfg: config with the classes set.

    Attributes:
        notes: lines for the user.
        stops: why the run cannot start.
    """

    def __init__(self, cfg: Config) -> None:
        self.training = {tuple(required_paths(data)) for data in datasets_of(cfg, ("train",))}
        self.validation = {tuple(required_paths(data)) for data in datasets_of(cfg, ("val",))}
        self.maps: list[tuple[bool, MapUse]] = []
        self.objects: list[ObjectUse] = []

    def trains(self, data: Mapping) -> bool:
        """Whether the training reads this data set."""
        return tuple(required_paths(data)) in self.training

    def add_maps(self, data: ConfigDict, check: PairCheck, total: int) -> None:
        """Count the values of a data set's label maps.

        Args:
            data: config of the data set.
            check: has read its maps, or some of them.
            total: number of its maps.
        """
        layout = label_maps_of(data)
        shifts = layout.reduces_zero
        classes = trained_values(layout.stored or (), shifts, layout.label_map, check.ignore_index)
        use = map_use(classes, check.held.values(), total, str(layout.folders[1]), shifts)
        trains = self.trains(data)
        # a training does not read the test set, whose labels may be withheld
        if trains or tuple(required_paths(data)) in self.validation or not any(t for t, _ in self.maps):
            self.maps.append((trains, use))

    def listener(self, data: ConfigDict, path: Path) -> Callable[[Mapping, Sequence[Fault]], None]:
        """A function that counts the objects of a training file once it is read and repaired."""

        def seen(content: Mapping, faults: Sequence[Fault]) -> None:
            if self.trains(data):
                without = sum(fault.count for fault in faults if fault.kind == "mask")
                names, keep = detection_classes_of(data), data.get("filter_cfg")
                self.objects.append(object_use(content, names, str(path), without, keep))

        return seen

    @property
    def notes(self) -> list[str]:
        found = [note for trains, use in self.maps for note in use.lines(trains)[0]]
        if not self.stops and (line := absent_classes(self.objects)):
            found.append(line)
        return found

    @property
    def stops(self) -> list[str]:
        trained = [use.lines()[1] for trains, use in self.maps if trains]
        compared = [use.lines(trains=False)[1] for trains, use in self.maps if not trains]
        # of several sets, one may lack the classes that another has
        stops = trained if all(trained) else []
        objects = [use.stop() for use in self.objects]
        nothing_left = [use.stop() for use in self.objects if use.images and not use.kept]
        stops += (objects if all(objects) else nothing_left) + compared
        return [stop for stop in dict.fromkeys(stops) if stop]


def loads_masks(data: Mapping) -> bool:
    """Whether the pipeline of a data set loads masks."""
    return any(step.get("with_mask") for _, step in mappings(data.get("pipeline") or ()))
