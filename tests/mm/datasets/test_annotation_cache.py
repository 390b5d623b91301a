"""Annotations that an earlier start read: the same entries and faults, and never those of other files."""

import errno
import json

import pytest
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import DataLoader

import convnext_dense.mm  # noqa: F401  (offers mmcv's operators before mmdet is imported)
from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.apis.train import TrainOptions, training_runner
from convnext_dense.mm.datasets import annotation_cache, checked_dataset
from convnext_dense.mm.datasets.transforms import BadInputError


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    make_shapes(root := tmp_path_factory.mktemp("shapes"), train=6, val=2, size=64)
    return root / "coco"


@pytest.fixture
def root(coco, tmp_path, monkeypatch):
    """A copy of the annotations, which counts as large; reading is counted."""
    monkeypatch.setattr(annotation_cache, "LEAST_BYTES", 0)
    (tmp_path / "annotations").mkdir()
    for file in (coco / "annotations").iterdir():
        (tmp_path / "annotations" / file.name).write_bytes(file.read_bytes())
    for split in ("train2017", "val2017"):
        (tmp_path / split).symlink_to(coco / split)
    return tmp_path


@pytest.fixture
def judged(monkeypatch):
    """Annotation files that were read, not mapped."""
    found = []
    judge = checked_dataset._judge
    monkeypatch.setattr(checked_dataset, "_judge", lambda *a: found.append(a[0]) or judge(*a))
    return found


@pytest.fixture
def logged(monkeypatch):
    """Lines that a user would see."""
    lines = []
    for module in (annotation_cache, checked_dataset):
        monkeypatch.setattr(module, "print_log", lambda line, **_: lines.append(line))
    return lines


def build(root, cache="cache", trains=True, **changes):
    import mmdet.datasets  # noqa: F401

    init_default_scope("mmdet")
    data = dict(
        type="CocoDataset",
        data_root=str(root),
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        metainfo=dict(classes=("circle", "triangle", "cross")),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[],
    )
    wrapped = dict(type="CheckedDataset", dataset={**data, **changes}, on_fault="skip", masks=True)
    return DATASETS.build(dict(wrapped, trains=trains, cache=cache and str(root / cache)))


def entries(dataset) -> list[dict]:
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def files(root) -> list[str]:
    return sorted(path.name for path in (root / "cache").glob("*.safetensors"))


def edit(root, change, name="instances_train2017"):
    path = root / "annotations" / f"{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_later_starts_read_the_same_entries(root, judged):
    plain, first, later = build(root, cache=None), build(root), build(root)
    assert len(judged) == 2 and len(files(root)) == 1
    assert entries(plain) == entries(first) == entries(later) and len(plain) > 3
    for name in ("cat_ids", "cat2label", "cat_img_map", "metainfo"):
        assert getattr(plain, name) == getattr(first, name) == getattr(later, name)
    assert [plain.get_cat_ids(i) for i in range(len(plain))] == [
        later.get_cat_ids(i) for i in range(len(plain))
    ]
    assert entries(plain.get_subset([2, 0])) == entries(later.get_subset([2, 0]))
    assert entries(plain.get_subset(-2)) == entries(later.get_subset(-2))


def test_workers_read_them(root):
    plain, later = build(root, cache=None), build(root) and build(root)
    loader = DataLoader(later, num_workers=1, collate_fn=list)
    assert [entry for batch in loader for entry in batch] == [plain[i] for i in range(len(plain))]


@pytest.mark.parametrize("wrapper", ["ConcatDataset", "RepeatDataset", "ClassBalancedDataset"])
def test_wrappers_of_datasets(wrapper, root):
    import mmdet.datasets  # noqa: F401

    def wrapped(cache):
        inner = build(root, cache)
        if wrapper == "ConcatDataset":
            return DATASETS.build(dict(type=wrapper, datasets=[inner, build(root, cache, indices=2)]))
        option = dict(times=2) if wrapper == "RepeatDataset" else dict(oversample_thr=0.9)
        return DATASETS.build(dict(type=wrapper, dataset=inner, **option))

    wrapped("cache")
    assert entries(wrapped("cache")) == entries(wrapped(None))


@pytest.mark.parametrize(
    "changes",
    [
        dict(metainfo=dict(classes=("triangle",))),
        dict(filter_cfg=None),
        dict(filter_cfg=dict(min_size=10)),
        dict(indices=3),
        dict(data_prefix=dict(img="./train2017/")),
    ],
)
def test_another_config_reads_anew(changes, root, judged):
    build(root)
    other = build(root, **changes)
    assert len(files(root)) == 2 and len(judged) == 2
    assert entries(other) == entries(build(root, cache=None, **changes))


def test_no_image_that_is_left_is_an_error_at_each_start(root):
    for _ in range(2):
        with pytest.raises(BadInputError, match=r"instances_train2017.json: no image is left"):
            build(root, filter_cfg=dict(min_size=65))
    assert not files(root)


def test_another_annotation_file_reads_anew(root):
    build(root)
    edit(root, lambda content: content["annotations"].pop())
    assert entries(build(root)) == entries(build(root, cache=None))
    assert len(files(root)) == 2


@pytest.mark.parametrize("changed", ["_deciding_code", "toolbox_versions"])
def test_other_code_reads_anew(changed, root, monkeypatch):
    build(root)
    monkeypatch.setattr(annotation_cache, changed, lambda *_: {"other": "code"})
    build(root)
    assert len(files(root)) == 2


def test_the_code_that_decides_includes_the_checks_and_the_packing():
    assert {"convnext_dense.data.coco_repair", "convnext_dense.data.packed_entries"} <= set(
        annotation_cache._deciding_code()
    )


def test_faults_are_reported_at_each_start(root, logged):
    def spoil(content):
        content["annotations"][0]["bbox"] = [0, 0, 0, 0]
        content["annotations"][0]["segmentation"] = []

    edit(root, spoil)
    for _ in range(3):
        logged.clear()
        build(root)
        assert sum("boxes without width or height: 1" in line for line in logged) == 1


def test_what_depends_on_images_is_read_anew(root, judged):
    """Their sizes may be others at the next start."""
    edit(root, lambda content: content["images"][0].pop("width"))
    build(root)
    build(root)
    assert len(judged) == 2 and not files(root)


def test_a_damaged_file_is_written_again(root, logged):
    build(root)
    path = root / "cache" / files(root)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert entries(build(root)) == entries(build(root, cache=None))
    assert path.read_bytes() == whole
    assert f"{path}: " in "\n".join(logged) and "annotations are read again" in "\n".join(logged)


def test_a_folder_that_cannot_be_made_costs_a_line(root, logged, judged):
    (root / "cache").write_text("a file")
    assert entries(build(root)) == entries(build(root, cache=None))
    assert "no cache of annotations (File exists)" in "\n".join(logged)


def test_a_full_disk_costs_a_line(root, logged, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(annotation_cache, "write_entries", full)
    assert entries(build(root)) == entries(build(root, cache=None))
    assert "no cache of annotations ([Errno 28] No space left on device)" in "\n".join(logged) and not files(
        root
    )


def test_two_processes_at_once_write_once(root, judged, monkeypatch):
    """The second waits for the first and maps its file."""
    import contextlib

    locked = annotation_cache.locked

    @contextlib.contextmanager
    def late(path):
        monkeypatch.setattr(annotation_cache, "locked", locked)
        build(root)  # the other process, which had the lock before
        with locked(path) as held:
            yield held

    monkeypatch.setattr(annotation_cache, "locked", late)
    build(root)
    assert len(judged) == 1


def test_small_files_foreign_classes_and_evaluations_are_read_at_each_start(root, monkeypatch):
    from mmdet.datasets import CocoDataset

    class Own(CocoDataset):
        """May read other files, too."""

    build(root, trains=False, test_mode=True)
    DATASETS.register_module(module=Own, force=True)
    build(root, type=Own)
    monkeypatch.setattr(annotation_cache, "LEAST_BYTES", 1 << 30)
    build(root)
    assert not (root / "cache").exists()


@pytest.mark.parametrize(("given", "folder"), [(None, "annotation_cache"), ("mine", "mine"), ("none", None)])
def test_a_run_keeps_them_beside_its_work_folder(given, folder, root, monkeypatch):
    monkeypatch.chdir(root)
    entry = {"train_dataloader.num_workers": 0, "train_dataloader.persistent_workers": False}
    options = TrainOptions(
        data_root=str(root),
        work_dir="runs/mine",
        cache=given,
        device="cpu",
        overrides=entry,
        classes="circle",
    )
    runner = training_runner("demo/mask_rcnn_shapes", options)
    runner.build_dataloader(runner._train_dataloader)
    where = root / ("runs/annotation_cache" if given is None else "mine")
    assert len(list(where.glob("instances_train2017-*.safetensors"))) == (folder is not None)
