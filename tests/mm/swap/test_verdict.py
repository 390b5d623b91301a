"""A fixed sample of the config zoos: swapped, trained for a step, asked for a prediction."""

import json

import pytest

from convnext_dense.mm.swap.survey import Structure, Verdict, counts, model_digest, read_verdicts, survey_one
from convnext_dense.mm.swap.survey_report import pass_rate, survey_page

SAMPLE = (
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py",  # regions from a dilated backbone, no neck
    "mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024.py",  # a neck that passes levels on
    "mmdet::yolo/yolov3_d53_8xb8-ms-416-273e_coco.py",  # levels from the deepest
    "mmdet::detr/detr_r50_8xb2-150e_coco.py",
    "mmdet::hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py",
    "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py",
    "mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",  # stride 8
    "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py",  # a second, finer level
    "mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py",  # heads in a cascade
    "mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py",  # its own decoder
    "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_the_zoo_passes(name):
    verdict = survey_one(Structure(name, "", "", 1))
    assert verdict.outcome == "passes", verdict.reason


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mmdet::misc/d2_retinanet_r50-caffe_fpn_ms-90k_coco.py", "another library builds it"),
        ("mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py", "parallel branches"),
        ("mmseg::setr/setr_vit-l_naive_8xb1-80k_cityscapes-768x768.py", "at once: no pyramid"),
    ],
)
def test_what_does_not_fit_is_refused(name, words):
    verdict = survey_one(Structure(name, "", "", 1))
    assert verdict.outcome == "refused" and words in verdict.reason


def test_a_model_is_known_by_its_structure():
    model = dict(type="A", backbone=dict(type="B", depth=50, init_cfg=dict(checkpoint="x")), pretrained="y")
    assert model_digest(model) == model_digest(dict(type="A", backbone=dict(depth=50, type="B")))
    assert model_digest(model) != model_digest(dict(type="A", backbone=dict(depth=101, type="B")))


def verdict(name="mmdet::a.py", outcome="passes", backbone="ResNet", reason="") -> Verdict:
    return Verdict(name, backbone, 2, outcome, reason, 1.0)


def test_a_record_continues_after_a_cut_line(tmp_path):
    path = tmp_path / "zoo.jsonl"
    assert read_verdicts(path) == []
    whole = json.dumps(verdict()._asdict())
    path.write_text(f"{whole}\n{whole[:20]}")
    assert read_verdicts(path) == [verdict()]


def test_the_rate_counts_what_it_says():
    found = [
        verdict(),
        verdict("mmseg::b.py", "refused", "UNet", "levels of stride 1"),
        verdict("mmseg::c.py", "refused", "VisionTransformer", "one resolution"),
        verdict("mmdet::d.py", "refused", "SwinTransformer", "the model reads text as well"),
        verdict("mmdet::e.py", "fails as it is", "ResNet", "no op"),
        verdict("mmdet::f.py", "fails", "ResNet", "a|b"),
    ]
    assert pass_rate(found) == (1, 3)
    assert counts(found) == {"passes": 1, "refused": 3, "fails as it is": 1, "fails": 1}
    page = survey_page({"compiled ops": found, "portable ops": found[:1]})
    assert "| mmdet, compiled ops | 1 | 1 | 1 | 1 | 4 |" in page
    assert "compiled ops: 1 of 3 structures" in page and "portable ops: 1 of 1" in page
    assert "| 1 | ResNet | a\\|b | `f.py` |" in page
