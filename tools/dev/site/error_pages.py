"""The page ``errors.md`` of the site: every message of the package with its cause and its remedy."""

import html
import re
from collections import Counter
from collections.abc import Iterable

from error_walk import Entry, Gap, Message, annotation_faults, entries, error_classes, letters

ROOMS = {  # in the order of the page: what a reader does when the message appears
    "mm/config": "Configs and their entries",
    "mm/datasets": "Data sets, while training reads them",
    "data": "Images, label maps and annotation files",
    "mm/engine": "Training, checkpoints of a run, several processes",
    "mm/engine/hooks": "Checkpoints and checks during training",
    "mm/preflight": "Preflight",
    "mm": "Errors of mmengine, mmcv, mmdet and mmseg, in one line",
    "mm/apis": "Train, test and predict",
    "mm/models": "Models in a config",
    "mm/evaluation": "Records of a test",
    "checkpoints": "Checkpoints",
    "mm/export": "Exporting a model",
    "mm/swap": "Swapping a backbone",
    "mm/bench": "Measurements of recipes",
    "models": "Backbones as PyTorch modules",
    "layers": "Layers",
    "ops": "RoIAlign and NMS",
    "evaluation": "Predictions and figures",
    "results": "Published and measured figures",
    "reports": "Pictures and pages",
    "export": "Exported models",
    "bench": "Time and memory",
    "installation": "Compiling and exchanging packages",
    "commands": "Command lines",
    "support": "Optional packages and files",
    "": "Recipes, the command line and the toolboxes",
}

REMEDIES = {  # where the message has none: by class
    "UserError": "Change the option or the entry of the config that the message names.",
    "ArgumentError": "Change the argument that the message names.",
    "CheckpointError": "Use a complete file of the same model: see [Checkpoints](checkpoints.md).",
    "MissingPackageError": "Install the package that the message names.",
    "InstallationError": "Nothing was changed. See [When something looks wrong](faq.md).",
    "DataError": "Correct the file that the message names.",
    "DatasetNotFoundError": "Correct the path, or give the folder with `--data-root`.",
    "ClassNamesError": "Correct the names or the file: see [Your own data](own_data.md).",
    "AnnotationFileError": "Correct the file: see [Bad input](bad_input.md).",
    "PictureError": "Replace the file. Training leaves it out: see [Bad input](bad_input.md).",
    "UnknownFormatError": "Convert the file, for example to PNG or JPEG.",
    "ChannelsError": "Convert the file, or choose a loader that reads its channels.",
    "PackedFileError": "None is needed: the file is written again.",
    "NotPlainError": "None is needed: the entries are not cached.",
    "ResultsError": "Correct or remove the line of the record.",
    "BadInputError": "Correct the file, or let training leave it out: see [Bad input](bad_input.md).",
    "NotFiniteError": "Lower the learning rate or clip gradients: see [When something looks wrong](faq.md).",
    "DiskFullError": "Free space, then continue with `--resume`.",
    "RefusedError": "This backbone cannot be replaced: see [Swap](swap.md) for what can.",
    "TrialError": "The swapped model does not run. Report the config.",
    "UnknownSizeError": "None is needed: preflight measures samples instead.",
    "SystemExit": "Change the command as the message says.",
}
OTHER = "Change the value that the message names."

MODULE_REMEDIES = {  # where the message has none and the module says more than the class
    "checkpoints/convert.py": "Give the checkpoint of one whole ConvNeXt, classifier or backbone.",
    "checkpoints/download.py": "Check the URL and the network, then repeat: what has arrived is kept. "
    "Or download the file yourself and give its path.",
    "checkpoints/fetch.py": "Check the name and the network. Or download the file and give its path.",
    "checkpoints/read.py": "Give the file that the training code saved. If it is damaged, download it again.",
    "checkpoints/safe_pickle.py": "Download the file again, or ask its author for the tensors alone.",
    "evaluation/folder.py": "Name the folder that `tools/test.py` wrote.",
    "installation/wheel.py": "The log that the message names has the compiler's own message.",
    "mm/config/by_name.py": "Correct the name. `convnext-dense list` prints all recipes; `PACKAGE::PATH` "
    "names a config of an installed package.",
    "mm/datasets/repair.py": "Correct the annotation file: see [Bad input](bad_input.md).",
    "mm/datasets/custom_classes.py": "Correct the files named: see [Your own data](own_data.md).",
    "mm/engine/optimizer.py": "Resume with the config that the checkpoint was trained with.",
    "mm/engine/resume.py": "Resume with the config that the checkpoint was trained with.",
    "mm/evaluation/judge.py": "The figures are printed, but no record is kept. Change the entry to get one.",
    "mm/swap/survey.py": "For maintainers: `make zoo` tries the config again.",
    "mm/swap/verdict.py": "For maintainers: `make zoo` tries the config again.",
    "reports/curves.py": "Name the work folder of a training.",
    "reports/gallery.py": "Name the folder of an evaluation that has such images.",
}

_VERBS = (
    "add|ask|change|choose|continue|convert|copy|correct|delete|free|give|install|keep|leave|list|lower|make|measure|"
    "merge|move|name|omit|pip|put|raise|read|reinstall|remove|rename|repeat|replace|run|save|see|set|start|state|take|"
    "train|try|turn|update|use|wait|write|without|similar|near|likely|expected|did you mean"
)
_REMEDY = re.compile(rf"(?:; |: |, so |(?P<bracket>\())(?=--|(?:{_VERBS})\b)")

MESSAGE_REMEDIES = {  # where the message has none: by some of its fixed words
    "no category": "Correct the name, or name the classes of the file with `--classes`.",
    "no config file": "Correct the path. `convnext-dense list` prints the names of all recipes.",
    "has no mask head beside a box head": "Leave `--boxes-only` out: this model reads no masks.",
    "needs auto_scale_lr.base_batch_size": "Add the batch that the rate was made for: "
    "`auto_scale_lr = dict(base_batch_size=16)`.",
    "at least one checkpoint must be kept": "Give 1 or more.",
    "--tta needs a segmentor": "Leave `--tta` out.",
    "--tta merges": "Leave `--tta` out.",
    "is there more than once": "Remove the second one.",
    "and the config ignores": "Set `ignore_index` of heads and evaluators to a value that is no class: 255.",
    "needs torch 2.13": "Update torch, or leave `--fsdp` out.",
    "no checkpoint at": "Correct the path. A run keeps its checkpoints in its work folder.",
    "is damaged": "Copy or download the file again.",
    "sees no GPU": "Run on a CPU (`--device cpu`), or install a build of torch with CUDA.",
    "has no val_evaluator": "Add `val_evaluator`, or take out what asks for its figures.",
    "--classes fits segmentors": "Leave `--classes` out: the classes come from the data set's own files.",
    "which is exported for one size": "Add `--size HEIGHT WIDTH`.",
    "cannot be exported": "See [One ONNX file](export.md) for what can be exported.",
    "needs mmcv's compiled operators": "Run `convnext-dense ops`, or use a layer that needs none.",
    "reduce_zero_label is": "Set both to the same value: True if 0 in the label maps means unlabelled.",
    "in_index is": "Let the head take one of the levels that the backbone or the neck gives.",
    "in_channels is": "Set `in_channels` to the channels of the levels that `in_index` takes.",
    "no image or folder at": "Correct the path.",
    "ONNX Runtime cannot load it": "Export the model again, or update onnxruntime.",
    "OpenVINO cannot load it": "Export the model again, or update openvino.",
    "has no config: tools/train.py did not train there": "Name the work folder of a training.",
}


def page(found: Iterable[Entry] | None = None) -> str:
    """``errors.md``.

    Raises:
        LookupError: a room or a class of errors without a title or remedy here.
    """
    found = entries() if found is None else list(found)
    classes = error_classes()
    if missing := sorted({entry.room for entry in found} - ROOMS.keys()):
        raise LookupError(f"error_pages.ROOMS has no title for {missing}")
    if missing := sorted({entry.error for entry in found} & classes.keys() - REMEDIES.keys()):
        raise LookupError(f"error_pages.REMEDIES has no remedy for {missing}")
    found = [entry for entry in found if has_words(entry)]
    ids: Counter[str] = Counter()
    parts = [_HEAD.format(count=len(found))]
    for room, title in ROOMS.items():
        inside = sorted((e for e in found if e.room == room), key=lambda e: (e.module, e.line))
        if inside:
            parts += [f"## {title}", *(_entry(entry, ids) for entry in inside)]
    parts += [_FAULTS, _table(("it says", "training"), annotation_faults())]
    parts += ["## The classes", _CLASSES, _table(("class", "meaning"), _codes(classes))]
    return "\n\n".join(parts) + "\n"


def has_words(entry: Entry) -> bool:
    """Whether a message says more than the one that it passes on."""
    return any(letters(message) >= 4 for message in entry.messages)


def _codes(classes: dict[str, str]) -> list[tuple[str, str]]:
    return [(f"`{name}`", text) for name, text in sorted(classes.items())]


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [" | ".join(cell.replace("|", "/") for cell in row) for row in (head, ("---", "---"), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


_HEAD = """---
search:
  boost: 4
---

# Error messages

This page lists every message that the code raises. They are {count}, read from the code at each build.
Words in *slanted type* stand for what a run fills in. Search this site for a few fixed words of your message.
Where one message passes another on, the other is listed.

A command prints such a message in one line and ends with status 2. `--traceback` shows the calls that led to
it. Messages about wrong files of a data set are also listed in
[Your own data](own_data.md#what-is-checked-before-training) and [Bad input](bad_input.md). The most frequent
problems have a longer answer in [When something looks wrong](faq.md).
"""

_FAULTS = """## Faults of annotations

A start counts the faults of an annotation file, names the first of each kind, and says what training does
with them. `--strict-data` makes them errors. An evaluation with such a file stops, unless nothing is lost.
"""

_CLASSES = "In Python, `except convnext_dense.errors.DenseError` catches all of these."


def split(message: Message) -> tuple[Message, Message]:
    """Cause and remedy of a message; the remedy is empty where the message has none."""
    for number, part in reversed(list(enumerate(message))):
        if isinstance(part, str) and (match := _REMEDY.search(part)) and match.start() + number > 0:
            cause, remedy, after = part[: match.start()], part[match.end() :], message[number + 1 :]
            if match["bracket"] and ")" in remedy:  # what follows the bracket is of the cause
                remedy, _, rest = remedy.partition(")")
                return (*message[:number], cause.rstrip() + rest, *after), (remedy,)
            return (*message[:number], cause), (remedy, *after)
    return message, ()


def shown(message: Message) -> str:
    """A message as HTML, its gaps in slanted type."""
    return "".join(
        f"<i>{html.escape(part.name)}</i>" if isinstance(part, Gap) else html.escape(part, quote=False)
        for part in message
    ).strip()


def _remedy(entry: Entry) -> str:
    """The remedy of a message without one of its own."""
    said = " ".join(part for message in entry.messages for part in message if isinstance(part, str))
    known = [remedy for words, remedy in MESSAGE_REMEDIES.items() if words in said]
    return (known or [MODULE_REMEDIES.get(entry.module) or REMEDIES.get(entry.error, OTHER)])[0]


def _heading(message: Message, ids: Counter[str]) -> str:
    """The first line of an entry, which a search and a link find by its fixed words."""
    words = " ".join(part for part in message if isinstance(part, str))
    slug = "-".join(re.findall(r"[a-z0-9_]+", words.lower())[:8]) or "message"
    ids[slug] += 1
    name = slug if ids[slug] == 1 else f"{slug}-{ids[slug]}"
    return f'<h3 id="{name}"><code>{shown(message)}</code></h3>'


def _entry(entry: Entry, ids: Counter[str]) -> str:
    lines = ['<div class="error" markdown="1">', ""]
    for number, message in enumerate(entry.messages):
        cause, remedy = split(message)
        whole = not remedy or all(isinstance(part, Gap) for part in remedy)
        said = message if whole else cause
        lines += [_heading(said, ids) if number == 0 else f"<p><code>{shown(said)}</code></p>", ""]
        if remedy:
            at_the_end = "**Remedy:** at the end of the message."
            lines += [at_the_end if whole else f"<p><b>Remedy:</b> {shown(remedy)}</p>", ""]
    if entry.when:
        lines += [f"**Cause:** {entry.when}", ""]
    if not any(split(message)[1] for message in entry.messages):
        lines += [f"**Remedy:** {_remedy(entry)}", ""]
    module = f"convnext_dense/{entry.module}".removesuffix(".py").replace("/", ".")
    raised = f"`{entry.error}`, raised" if entry.error else "Explained"
    lines += [f"{raised} by `{module}`", "{ .raised }", "", "</div>"]
    return "\n".join(lines)
