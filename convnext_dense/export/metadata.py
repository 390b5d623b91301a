"""What an exported file says of its model: everything that the runtime needs besides the network itself."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from convnext_dense.errors import UserError

KEY = "convnext_dense"
"""Key of the JSON text in the ``metadata_props`` of an ONNX file."""
FORMAT = 1

HW = tuple[int, int]
"""(height, width) in pixels."""
Kind = Literal["detector", "segmentor"]
Precision = Literal["fp32", "fp16", "int8"]
Output = Literal["logits", "labels"]
Mode = Literal["whole", "slide"]
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "precision": get_args(Precision),
    "output": get_args(Output),
    "mode": get_args(Mode),
}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The model in an ONNX file.

    Attributes:
        package: version of convnext_dense that exported it.
        torch: version of PyTorch that did.
        opset: version of the ONNX operators.
        recipe: name of the config.
        kind: what its outputs are.
        classes: names, by class number.
        palette: (red, green, blue) of each class.
        scale: (width, height) of mmcv's ``Resize``; with ``keep_ratio`` a picture fits in a rectangle of this
            longer and this shorter side, else it gets exactly this size; ``None`` leaves it as it is.
        keep_ratio: see ``scale``.
        size_divisor: the network pads inputs to a multiple of it.
        fixed_hw: (height, width) of the only input that the network takes; ``None`` for any. Pictures are
            then resized to fit inside, whatever ``scale`` is, and padded. Windows are only padded.
        precision: of the weights and the arithmetic.
        score_thr: a detector has no detections below it.
        iou_threshold: detections of a class that overlap more than this are one object.
        max_per_image: detections of an image, at most.
        masks: whether detections have masks.
        mask_threshold: probability from which a pixel belongs to a mask.
        output: what a segmentor's network returns.
        mode: whether a segmentor sees the whole picture at once or windows of it.
        crop_hw: (height, width) of a window.
        stride_hw: (height, width) from one window to the next.
        align_corners: how a segmentor's logits are resized.
        binary_threshold: of a segmentor with a single channel of logits: the probability above which a pixel
            has label 1.
    """

    package: str
    torch: str
    opset: int
    recipe: str
    kind: Kind
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    scale: tuple[int, int] | None
    keep_ratio: bool
    size_divisor: int
    fixed_hw: HW | None = None
    precision: Precision = "fp32"
    score_thr: float = 0.05
    iou_threshold: float = 0.5
    max_per_image: int = 100
    masks: bool = False
    mask_threshold: float = 0.5
    output: Output = "logits"
    mode: Mode = "whole"
    crop_hw: HW | None = None
    stride_hw: HW | None = None
    align_corners: bool = False
    binary_threshold: float | None = None

    def __post_init__(self) -> None:
        """Check what the runtime relies on.

        Raises:
            UserError: an unknown choice, or entries that contradict each other.
        """
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"metadata {name}={getattr(self, name)!r}; use one of {choices}")
        if self.kind == "segmentor" and self.mode == "slide":
            if self.crop_hw is None or self.stride_hw is None:
                raise UserError("metadata mode='slide' needs crop_hw and stride_hw")
            if self.output == "labels":
                raise UserError("metadata mode='slide' needs output='logits': labels have no average")
            if self.fixed_hw and (self.crop_hw[0] > self.fixed_hw[0] or self.crop_hw[1] > self.fixed_hw[1]):
                raise UserError(f"metadata crop_hw={self.crop_hw} is larger than fixed_hw={self.fixed_hw}")

    @property
    def windows(self) -> tuple[HW, HW] | None:
        """Size and stride of a segmentor's windows; ``None`` for a network that sees whole pictures."""
        if self.kind == "segmentor" and self.mode == "slide" and self.crop_hw and self.stride_hw:
            return self.crop_hw, self.stride_hw
        return None

    def to_json(self) -> str:
        """The text for :data:`KEY`."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str | None) -> "Metadata":
        """Read the text of :data:`KEY`; entries that later versions add are ignored.

        Args:
            text: ``None`` for a file that has none.

        Raises:
            UserError: none, damaged, of another format, or incomplete.
        """
        if text is None:
            raise UserError("it has no metadata of convnext_dense; export it with `convnext-dense export`")
        try:
            entries = json.loads(text)
        except ValueError:
            entries = None
        if not isinstance(entries, dict):
            raise UserError("its metadata are damaged")
        if entries.get("format") != FORMAT:
            raise UserError(
                f"its metadata are of format {entries.get('format')!r}; this version of convnext_dense "
                f"reads format {FORMAT}"
            )
        fields = {field.name: field for field in dataclasses.fields(cls)}
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        if missing := sorted(required - {*entries}):
            raise UserError(f"its metadata lack {', '.join(missing)}")
        return cls(**{name: _frozen(value) for name, value in entries.items() if name in fields})


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
