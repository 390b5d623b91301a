"""Class names, colours and class weights of a config, compared with its classes before a run."""

import pytest
from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.class_settings import check_class_names, check_class_weights
from convnext_dense.mm.datasets.declared import with_colours


def with_metainfo(metainfo: object) -> Config:
    data = dict(type="CocoDataset", ann_file="a.json", metainfo=metainfo)
    return Config(dict(train_dataloader=dict(dataset=data)))


@pytest.mark.parametrize(
    ("metainfo", "said"),
    [
        (dict(classes="person"), r"is the text 'person', not a list: write classes=\('person',\)"),
        (dict(classes=(1, 2)), "1 is no name"),
        (dict(classes=[["a", "b"]]), r"\['a', 'b'\] is no name"),
        (dict(classes=("a", " ")), "' ' is no name"),
        (dict(classes=("a", "b", "a")), "'a' is there more than once"),
        (dict(classes=()), "is empty"),
        (dict(classes=dict(a=1)), "is a ConfigDict"),
        (dict(CLASSES=("a",)), "has CLASSES, which is ignored: write classes"),
        (["a"], "is a list"),
    ],
)
def test_names_of_another_type_stop(metainfo, said):
    with pytest.raises(UserError, match=said) as error:
        check_class_names(with_metainfo(metainfo))
    assert "metainfo of CocoDataset in train_dataloader" in str(error.value)
    assert "\n" not in str(error.value)


def test_names_of_a_text_file_are_read(tmp_path):
    (tmp_path / "names.txt").write_text("nut\nbolt\n\n")
    cfg = with_metainfo(dict(classes=str(tmp_path / "names.txt")))
    check_class_names(cfg)
    assert cfg.train_dataloader.dataset.metainfo.classes == ("nut", "bolt")


@pytest.mark.parametrize(
    ("palette", "expected"),
    [
        ([(1, 2, 3)], [(1, 2, 3), ...]),
        ([(1, 2, 3)] * 3, [(1, 2, 3), (1, 2, 3)]),
        (((1, 2, 3), (4, 5, 6)), [(1, 2, 3), (4, 5, 6)]),  # mmdet takes a tuple for one colour
        ((1, 2, 3), [(1, 2, 3), (1, 2, 3)]),
        ("random", "random"),
    ],
)
def test_every_class_has_a_colour(palette, expected):
    found = with_colours(dict(classes=("a", "b"), palette=palette))["palette"]
    if not isinstance(expected, list):
        assert found == expected
        return
    assert isinstance(found, list) and len(found) == 2
    assert all(want in (..., got) for got, want in zip(found, expected, strict=True))


# ---- class weights


def segmentor(**loss) -> Config:
    cfg = load_config("demo/upernet_shapes")
    cfg.model.decode_head.loss_decode = dict(type="CrossEntropyLoss", **loss)
    return cfg


def test_weights_of_another_number_of_classes():
    check_class_weights(segmentor(class_weight=[1.0] * 4))
    check_class_weights(segmentor(class_weight=None))
    key = r"model\.decode_head\.loss_decode\.class_weight"
    with pytest.raises(UserError, match=rf"{key} has 5 weights for 4 classes: give 4.*{key}=None"):
        check_class_weights(segmentor(class_weight=[1.0] * 5))


def test_weights_of_one_of_several_losses():
    cfg = segmentor()
    cfg.model.decode_head.loss_decode = [dict(type="DiceLoss"), dict(type="LovaszLoss", class_weight=[1.0])]
    with pytest.raises(UserError, match=r"loss_decode\.1\.class_weight has 1 weights for 4"):
        check_class_weights(cfg)


@pytest.mark.parametrize(
    ("count", "use_sigmoid", "fits"), [(4, False, True), (3, False, False), (3, True, True)]
)
def test_a_softmax_over_boxes_has_a_weight_for_the_background(count, use_sigmoid, fits):
    cfg = load_config("demo/mask_rcnn_shapes")  # three classes
    cfg.model.roi_head.bbox_head.loss_cls = dict(
        type="CrossEntropyLoss", use_sigmoid=use_sigmoid, class_weight=[1.0] * count
    )
    if fits:
        return check_class_weights(cfg)
    with pytest.raises(UserError, match=r"give 4 \(the classes and the background\)"):
        check_class_weights(cfg)


def test_weights_of_a_file(tmp_path):
    with pytest.raises(UserError, match="no file"):
        check_class_weights(segmentor(class_weight=str(tmp_path / "none.json")))
    (tmp_path / "w.json").write_text("[1, 2, 3]")
    with pytest.raises(UserError, match="has 3 weights for 4"):
        check_class_weights(segmentor(class_weight=str(tmp_path / "w.json")))
