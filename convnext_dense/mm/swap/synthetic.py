"""Images of noise with annotations, in the format of each toolbox's data loader."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

IMAGES = 2  # of a training batch; models with text and trackers predict one at a time
BRANCHES = ("sup", "unsup_teacher", "unsup_student")  # of a semi-supervised model's batch


def training_batch(scope: str, model: nn.Module, hw: tuple[int, int]) -> dict:
    """A batch of two images, pairs of frames or branches, as ``model.data_preprocessor`` expects it."""
    kind = type(model.data_preprocessor).__name__
    if kind == "MultiBranchDataPreprocessor":
        branches = {name: _images(scope, model, hw, IMAGES) for name in BRANCHES}
        return {
            key: {name: batch[key] for name, batch in branches.items()} for key in ("inputs", "data_samples")
        }
    if kind == "TrackDataPreprocessor" and not model.data_preprocessor.use_det_processor:
        return _videos(model, hw, IMAGES)
    return _images(scope, model, hw, IMAGES)


def test_batches(scope: str, model: nn.Module, hw: tuple[int, int]) -> list[dict]:
    """Batches for ``model.test_step``."""
    kind = type(model.data_preprocessor).__name__
    if kind == "TrackDataPreprocessor":
        return [_videos(model, hw, 1)]
    if hasattr(model, "language_model"):
        return [_images(scope, model, hw, 1)]
    return [_images(scope, model, hw, IMAGES)]


def _images(scope: str, model: nn.Module, hw: tuple[int, int], count: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    shape = (_channels(model), *hw)
    images = [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in range(count)]
    make: Callable = {"mmseg": _segmentation, "mmpretrain": _classification}.get(scope, _detection)
    return dict(inputs=images, data_samples=[make(model, hw, generator) for _ in images])


def _channels(model: nn.Module) -> int:
    """Channels of the images: those of the first convolution, which is the backbone's."""
    return next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def _videos(model: nn.Module, hw: tuple[int, int], count: int) -> dict:
    """Two frames per video: the key frame and a reference."""
    from mmdet.structures import TrackDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(count):
        frames = [_detection(model, hw, generator) for _ in range(2)]
        for i, frame in enumerate(frames):
            frame.gt_instances.instances_ids = torch.tensor([0, 1])
            frame.set_metainfo(dict(frame_id=i, video_id=0, video_length=2, ori_video_length=2))
        sample = TrackDataSample(metainfo=dict(key_frames_inds=[0], ref_frames_inds=[1], video_length=2))
        sample.video_data_samples = frames
        samples.append(sample)
    shape = (2, _channels(model), *hw)
    images = [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def _segmentation(model: nn.Module, hw: tuple[int, int], generator: torch.Generator):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    heads = model.decode_head if isinstance(model.decode_head, nn.ModuleList) else [model.decode_head]
    classes = max(int(getattr(head, "num_classes", 2)) for head in heads)
    sample = SegDataSample(metainfo=dict(img_shape=hw, ori_shape=hw, pad_shape=hw, flip=False))
    labels = torch.randint(classes, (1, *hw), generator=generator)
    sample.gt_sem_seg = PixelData(data=labels)
    sample.gt_edge_map = PixelData(data=(labels > 0).long())
    sample.gt_depth_map = PixelData(data=1 + labels.float())
    return sample


def _classification(model: nn.Module, hw: tuple[int, int], generator: torch.Generator):
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(0)


def _detection(model: nn.Module, hw: tuple[int, int], generator: torch.Generator):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    height, width = hw
    scale = torch.tensor([width, height, width, height]) / 128
    boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0], [40.0, 30.0, 110.0, 120.0]]) * scale
    masks = torch.zeros(2, *hw, dtype=torch.uint8)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = 1
    metainfo = dict(
        img_shape=hw,
        ori_shape=hw,
        pad_shape=hw,
        batch_input_shape=hw,
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        homography_matrix=np.eye(
            3, dtype=np.float32
        ),  # of the augmentations, which semi-supervised training inverts
        img_id=0,
        img_path="synthetic.jpg",
        border=np.array([0, height, 0, width]),  # CenterNet crops it
        text=("one", "two"),  # classes of a model that reads text
        custom_entities=True,
    )
    sample = DetDataSample(metainfo=metainfo)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 0]))
    if any("mask" in name for name, _ in model.named_modules()):
        sample.gt_instances.masks = BitmapMasks(masks.numpy(), *hw)
    none = torch.zeros(0, dtype=torch.long)
    sample.ignored_instances = InstanceData(
        bboxes=boxes[:0], labels=none, masks=BitmapMasks(masks[:0].numpy(), *hw)
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, *hw, dtype=torch.long))
    if not any(name.rpartition(".")[2] == "rpn_head" for name, _ in model.named_modules()):  # Fast R-CNN
        sample.proposals = InstanceData(bboxes=boxes, scores=torch.ones(2), labels=torch.tensor([0, 0]))
    return sample
