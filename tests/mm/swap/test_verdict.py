"""Verdicts on a fixed sample of the config zoos: swapped, trained for a step, asked for a prediction."""

import signal
import time

import pytest
from mmengine.config import Config

import convnext_dense.mm.swap.verdict as verdict_module
from convnext_dense.mm.swap.verdict import judge

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
    "mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py",  # levels finer than ConvNeXt's
    "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py",  # a head that reads several levels of the neck
    "mmseg::point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py",  # the same in a cascade
)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_the_zoo_passes(name):
    verdict = judge(name, {})
    assert verdict.outcome == "passes", verdict.reason


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mmdet::misc/d2_retinanet_r50-caffe_fpn_ms-90k_coco.py", "another library builds it"),
        ("mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py", "parallel branches"),
        ("mmseg::san/san-vit-b16_coco-stuff164k-640x640.py", "no model.backbone"),
        ("mmseg::setr/setr_vit-l_naive_8xb1-80k_cityscapes-768x768.py", "at once: no pyramid"),
    ],
)
def test_what_does_not_fit_is_refused(name, words):
    verdict = judge(name, {})
    assert verdict.outcome == "refused" and words in verdict.reason


RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"


def test_equal_models_are_tried_once():
    tried: dict[str, str] = {}
    first = judge(RETINANET, tried)
    assert list(tried.items()) == [(first.trial, "")]
    tried[first.trial] = "known"  # models of other depth are equal after the swap
    other = judge("mmdet::retinanet/retinanet_r101_fpn_1x_coco.py", tried)
    assert (other.trial, other.outcome, other.reason) == (first.trial, "fails", "known")


def test_a_config_that_fails_with_its_own_backbone_is_told_apart(monkeypatch):
    def fails(cfg: Config) -> None:
        raise RuntimeError(f"{cfg.model.backbone.type} fails in /somewhere/else/file.py:3")

    monkeypatch.setattr(verdict_module, "try_model", fails)
    found = judge(RETINANET, {})
    assert (found.outcome, found.reason) == ("fails as it is", "ResNet fails in file.py:3")


def test_a_fault_of_the_swap_is_a_verdict(monkeypatch):
    monkeypatch.setattr(verdict_module, "swap_backbone", lambda *args, **kwargs: {}["backbone"])
    found = judge(RETINANET, {})
    assert (found.outcome, found.reason, found.trial) == (
        *("fails", "the swap ends in KeyError: 'backbone'", ""),
    )


def test_the_time_limit_counts_this_process_alone():
    with verdict_module._time_limit(0.2):
        time.sleep(0.6)  # others may use the CPU
    with pytest.raises(TimeoutError, match=r"more than 0\.2 s of CPU time"), verdict_module._time_limit(0.2):
        while True:
            pass
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
