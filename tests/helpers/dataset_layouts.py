"""Tiny data in the layout of each class of dataset in mmseg and mmdet, and the class's config entries.

The layouts are those of the data sets' own pages and of the toolboxes' documentation, written down here and
not asked from the classes.
"""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

SIDE = 64  # of the square images
SPLITS = ("train", "val")
BOX = (8, 12, 48, 52)  # x1, y1, x2, y2 of the one object in each image


def picture(path: Path, seed: int = 0) -> None:
    """A grey image with one bright rectangle, the object."""
    image = np.random.default_rng(seed).integers(60, 90, (SIDE, SIDE, 3), np.uint8)
    x1, y1, x2, y2 = BOX
    image[y1:y2, x1:x2] = 220
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


# ---- label maps


class Maps(NamedTuple):
    """Suffixes of a class of label maps, its number of classes, and whether 0 is unlabelled."""

    image: str
    map: str
    classes: int
    zero: bool = False


MAPS = {
    "ADE20KDataset": Maps(".jpg", ".png", 150, True),
    "BDD100KDataset": Maps(".jpg", ".png", 19),
    "BaseSegDataset": Maps(".jpg", ".png", 3),
    "COCOStuffDataset": Maps(".jpg", "_labelTrainIds.png", 171),
    "ChaseDB1Dataset": Maps(".png", "_1stHO.png", 2),
    "CityscapesDataset": Maps("_leftImg8bit.png", "_gtFine_labelTrainIds.png", 19),
    "DRIVEDataset": Maps(".png", "_manual1.png", 2),
    "DarkZurichDataset": Maps("_rgb_anon.png", "_gt_labelTrainIds.png", 19),
    "HRFDataset": Maps(".png", ".png", 2),
    "ISPRSDataset": Maps(".png", ".png", 6, True),
    "LIPDataset": Maps(".jpg", ".png", 20),
    "LoveDADataset": Maps(".png", ".png", 7, True),
    "MapillaryDataset_v1": Maps(".jpg", ".png", 66),
    "MapillaryDataset_v2": Maps(".jpg", ".png", 124),
    "NightDrivingDataset": Maps("_leftImg8bit.png", "_gtCoarse_labelTrainIds.png", 19),
    "PascalContextDataset": Maps(".jpg", ".png", 60),
    "PascalContextDataset59": Maps(".jpg", ".png", 59, True),
    "PascalVOCDataset": Maps(".jpg", ".png", 21),
    "PotsdamDataset": Maps(".png", ".png", 6, True),
    "REFUGEDataset": Maps(".png", ".png", 3),
    "STAREDataset": Maps(".png", ".ah.png", 2),
    "SynapseDataset": Maps(".jpg", ".png", 9),
    "iSAIDDataset": Maps(".png", "_instance_color_RGB.png", 16),
}
LISTED = {"PascalContextDataset", "PascalContextDataset59", "PascalVOCDataset"}  # they need a list of names


def label_maps(root: Path, name: str) -> dict[str, dict]:
    """Two training images and one for validation; return the entries of their datasets."""
    layout = MAPS[name]
    numbers = np.zeros((SIDE, SIDE), np.uint8)
    numbers[: SIDE // 2] = layout.classes - 1 + layout.zero
    numbers[SIDE // 2 : 3 * SIDE // 4] = int(layout.zero)  # with one class alone there is nothing to learn
    numbers[-4:] = 255
    entries = {}
    for split in SPLITS:
        stems = [f"town/{split}_{index}" for index in range(2 if split == "train" else 1)]
        for index, stem in enumerate(stems):
            picture(root / "img" / split / f"{stem}{layout.image}", index)
            path = root / "ann" / split / f"{stem}{layout.map}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), numbers)
        prefix = dict(img_path=f"img/{split}", seg_map_path=f"ann/{split}")
        entries[split] = dict(type=name, data_root=str(root), data_prefix=prefix)
        if name in LISTED:
            (root / f"{split}.txt").write_text("\n".join(stems) + "\n")
            entries[split]["ann_file"] = f"{split}.txt"
        if name == "BaseSegDataset":
            entries[split]["metainfo"] = dict(classes=("ground", "box", "sky"))
    return entries


def decathlon(root: Path) -> dict[str, dict]:
    """The Medical Segmentation Decathlon's ``dataset.json``, here with flat pictures."""
    for index in range(2):
        picture(root / f"imagesTr/{index}.png", index)
        (root / "labelsTr").mkdir(exist_ok=True)
        numbers = np.zeros((SIDE, SIDE), np.uint8)
        numbers[:20] = 1
        cv2.imwrite(str(root / f"labelsTr/{index}.png"), numbers)
    pairs = [dict(image=f"./imagesTr/{i}.png", label=f"./labelsTr/{i}.png") for i in range(2)]
    content = dict(name="x", labels={"0": "background", "1": "edema"}, training=pairs, test=[])
    (root / "dataset.json").write_text(json.dumps(content))
    entry = dict(type="DecathlonDataset", data_root=str(root), ann_file="dataset.json")
    return dict(train=entry, val=dict(entry))


# ---- boxes


class Boxes(NamedTuple):
    """A detection set: entries of its datasets by split, its metric, and more keys that the metric needs."""

    entries: dict[str, dict]
    evaluator: dict
    keys: tuple[str, ...] = ()


def stems(split: str) -> list[str]:
    """Names of the images of a split."""
    return [f"{split}_{index}" for index in range(2 if split == "train" else 1)]


VOC_METRIC = dict(type="VOCMetric", metric="mAP", eval_mode="11points")


def coco(root: Path, name: str, classes: Sequence[str], file_name: Callable[[str], str] = "{}.jpg".format):
    """A file in COCO's format for each split; the object is of the second class, or the only one."""
    x1, y1, x2, y2 = BOX
    entries = {}
    for split in SPLITS:
        images, annotations = [], []
        for number, stem in enumerate(stems(split), 1):
            picture(root / split / f"{stem}.jpg", number)
            images.append(dict(id=number, file_name=file_name(stem), width=SIDE, height=SIDE))
            annotations.append(
                dict(
                    id=number,
                    image_id=number,
                    category_id=min(2, len(classes)),
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=0,
                    segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
                )
            )
        categories = [dict(id=number, name=each) for number, each in enumerate(classes, 1)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / f"{split}.json").write_text(json.dumps(content))
        prefix = dict(img=f"{split}/")
        entries[split] = dict(type=name, data_root=str(root), ann_file=f"{split}.json", data_prefix=prefix)
    evaluator = dict(type="CocoMetric", ann_file=str(root / "val.json"), metric=["bbox"])
    return Boxes(entries, evaluator)


def objects365_v2(root: Path, classes: Sequence[str]) -> Boxes:
    """Its file names have folders in front of ``patchN/``, which the class leaves out."""
    made = coco(root, "Objects365V2Dataset", classes, "images/v2/patch1/{}.jpg".format)
    for split in SPLITS:
        (root / split).rename(root / "patch1")
        (root / split).mkdir()
        (root / "patch1").rename(root / split / "patch1")
    return made._replace(evaluator=VOC_METRIC)


def v3det(root: Path, _: Sequence[str]) -> Boxes:
    """Its class names are the lines of a file."""
    names = ["cog", "nut", "bolt"]
    made = coco(root, "V3DetDataset", names)
    (root / "names.txt").write_text("\n".join(names) + "\n")
    for entry in made.entries.values():
        entry["label_file"] = "names.txt"
    return made


def lvis(root: Path, name: str, classes: Sequence[str]) -> Boxes:
    """Version 1 has URLs in place of file names."""
    made = coco(root, name, classes)
    for split in SPLITS:
        path = root / f"{split}.json"
        content = json.loads(path.read_text())
        for entry in content["images"]:
            file = entry.pop("file_name") if name == "LVISV1Dataset" else entry["file_name"]
            entry["coco_url"] = f"http://images.cocodataset.org/{split}/{file}"
            entry |= dict(neg_category_ids=[], not_exhaustive_category_ids=[])
        for category in content["categories"]:
            category["frequency"] = "f"
        path.write_text(json.dumps(content))
        if name == "LVISV1Dataset":
            made.entries[split]["data_prefix"] = dict(img="")
    return made._replace(evaluator=VOC_METRIC)


def xml(name: str, folder: str = "") -> str:
    """The annotation of one image in Pascal VOC's format."""
    sides = "".join(f"<{s}>{v + 1}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True))
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
    return (
        f"<annotation><folder>{folder}</folder>{size}<object><name>{name}</name><difficult>0</difficult>"
        f"<bndbox>{sides}</bndbox></object></annotation>"
    )


def voc(root: Path, name: str, classes: Sequence[str]) -> Boxes:
    """Pascal VOC's folders; ``XMLDataset`` gets other ones, and its classes from the config."""
    own = name == "XMLDataset"
    images, annotations = ("pictures", "xml") if own else ("JPEGImages", "Annotations")
    entries = {}
    for split in SPLITS:
        for index, stem in enumerate(stems(split)):
            picture(root / "VOC2007" / images / f"{stem}.jpg", index)
            (root / "VOC2007" / annotations).mkdir(exist_ok=True)
            (root / "VOC2007" / annotations / f"{stem}.xml").write_text(xml("nut" if own else classes[1]))
        (root / f"{split}.txt").write_text("\n".join(stems(split)) + "\n")
        prefix = dict(sub_data_root="VOC2007/")
        entries[split] = dict(type=name, data_root=str(root), ann_file=f"{split}.txt", data_prefix=prefix)
        if own:
            entries[split] |= dict(
                metainfo=dict(classes=("cog", "nut")), img_subdir=images, ann_subdir=annotations
            )
    return Boxes(entries, VOC_METRIC)


def wider_face(root: Path, _: Sequence[str]) -> Boxes:
    """A folder for each event, which the XML file names."""
    entries = {}
    for split in SPLITS:
        for index, stem in enumerate(stems(split)):
            picture(root / split / "0--Parade" / f"{stem}.jpg", index)
            (root / split / "Annotations").mkdir(exist_ok=True)
            (root / split / "Annotations" / f"{stem}.xml").write_text(xml("face", "0--Parade"))
        (root / f"{split}.txt").write_text("\n".join(stems(split)) + "\n")
        prefix = dict(img=split)
        entries[split] = dict(
            type="WIDERFaceDataset", data_root=str(root), ann_file=f"{split}.txt", data_prefix=prefix
        )
    return Boxes(entries, VOC_METRIC)


def crowd_human(root: Path, _: Sequence[str]) -> Boxes:
    """One JSON object per line."""
    x1, y1, x2, y2 = BOX
    box = [x1, y1, x2 - x1, y2 - y1]
    entries = {}
    for split in SPLITS:
        lines = []
        for index, stem in enumerate(stems(split)):
            picture(root / "Images" / f"{stem}.jpg", index)
            person = dict(tag="person", fbox=box, hbox=box, vbox=box, extra={}, head_attr={})
            lines.append(json.dumps(dict(ID=stem, gtboxes=[person])))
        (root / f"annotation_{split}.odgt").write_text("\n".join(lines))
        entries[split] = dict(
            type="CrowdHumanDataset",
            data_root=str(root),
            ann_file=f"annotation_{split}.odgt",
            data_prefix=dict(img="Images/"),
        )
    evaluator = dict(type="CrowdHumanMetric", ann_file=str(root / "annotation_val.odgt"), metric=["AP", "MR"])
    return Boxes(entries, evaluator)


def open_images(root: Path, _: Sequence[str]) -> Boxes:
    """Boxes as shares of the sides in a CSV file, names and sizes in files of their own."""
    x1, y1, x2, y2 = (value / SIDE for value in BOX)
    (root / "names.csv").write_text("/m/1,Cog\n/m/2,Nut\n")
    tree = dict(LabelName="/m/0", Subcategory=[dict(LabelName="/m/1"), dict(LabelName="/m/2")])
    (root / "tree.json").write_text(json.dumps(tree))
    entries = {}
    for split in SPLITS:
        rows = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,a,b,c,d,e"]
        for index, stem in enumerate(stems(split)):
            picture(root / split / f"{stem}.jpg", index)
            rows.append(f"{stem},x,/m/2,1,{x1},{x2},{y1},{y2},0,0,0,0,0")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
        entries[split] = _open_images_entry(root, split, "OpenImagesDataset", "csv", "json")
    return _open_images_boxes(entries)


def open_images_challenge(root: Path, _: Sequence[str]) -> Boxes:
    """Blocks of lines in a text file, and the hierarchy as a matrix."""
    x1, y1, x2, y2 = (value / SIDE for value in BOX)
    (root / "names.csv").write_text("/m/1,Cog,1\n/m/2,Nut,2\n")
    np.save(root / "tree.npy", np.eye(3))
    entries = {}
    for split in SPLITS:
        blocks = []
        for index, stem in enumerate(stems(split)):
            picture(root / split / f"{stem}.jpg", index)
            blocks.append(f"{stem}.jpg\n# {index}\n1\n2 {x1} {y1} {x2} {y2} 0\n")
        (root / f"{split}.txt").write_text("".join(blocks))
        entries[split] = _open_images_entry(root, split, "OpenImagesChallengeDataset", "txt", "npy")
    # the metric of mmdet 3.3 fails on it: dataset and metric spell the entry for groups differently
    return Boxes(entries, VOC_METRIC)


def _open_images_entry(root: Path, split: str, name: str, kind: str, tree: str) -> dict:
    sizes = [dict(filename=f"{stem}.jpg", ori_shape=(SIDE, SIDE, 3)) for stem in stems(split)]
    (root / f"{split}.pkl").write_bytes(pickle.dumps(sizes))
    return dict(
        type=name,
        data_root=str(root),
        ann_file=f"{split}.{kind}",
        data_prefix=dict(img=f"{split}/"),
        label_file="names.csv",
        hierarchy_file=f"tree.{tree}",
        meta_file=f"{split}.pkl",
    )


def _open_images_boxes(entries: dict) -> Boxes:
    evaluator = dict(type="OpenImagesMetric", iou_thrs=0.5, ioa_thrs=0.5)
    return Boxes(entries, evaluator, ("instances", "image_level_labels"))


def middle_format(root: Path, _: Sequence[str]) -> Boxes:
    """mmengine's own JSON, which ``BaseDetDataset`` reads."""
    entries = {}
    for split in SPLITS:
        listed = []
        for index, stem in enumerate(stems(split)):
            picture(root / split / f"{stem}.jpg", index)
            instance = dict(bbox=list(BOX), bbox_label=1, ignore_flag=0)
            listed.append(
                dict(img_path=f"{stem}.jpg", img_id=index, width=SIDE, height=SIDE, instances=[instance])
            )
        content = dict(metainfo=dict(classes=["cog", "nut"]), data_list=listed)
        (root / f"{split}.json").write_text(json.dumps(content))
        entries[split] = dict(
            type="BaseDetDataset",
            data_root=str(root),
            ann_file=f"{split}.json",
            data_prefix=dict(img_path=f"{split}/"),
            metainfo=dict(classes=("cog", "nut")),
        )
    return Boxes(entries, VOC_METRIC)


def _coco_of(name: str) -> Callable[[Path, Sequence[str]], Boxes]:
    return lambda root, classes: coco(root, name, classes)


BOXES: dict[str, Callable[[Path, Sequence[str]], Boxes]] = {
    **{
        name: _coco_of(name)
        for name in (
            *("CocoDataset", "ADE20KInstanceDataset", "CityscapesDataset", "DeepFashionDataset"),
            *("Objects365V1Dataset", "iSAIDDataset"),
        )
    },
    "Objects365V2Dataset": objects365_v2,
    "V3DetDataset": v3det,
    "LVISDataset": lambda root, classes: lvis(root, "LVISDataset", classes),
    "LVISV05Dataset": lambda root, classes: lvis(root, "LVISV05Dataset", classes),
    "LVISV1Dataset": lambda root, classes: lvis(root, "LVISV1Dataset", classes),
    "VOCDataset": lambda root, classes: voc(root, "VOCDataset", classes),
    "XMLDataset": lambda root, classes: voc(root, "XMLDataset", classes),
    "WIDERFaceDataset": wider_face,
    "CrowdHumanDataset": crowd_human,
    "OpenImagesDataset": open_images,
    "OpenImagesChallengeDataset": open_images_challenge,
    "BaseDetDataset": middle_format,
}
