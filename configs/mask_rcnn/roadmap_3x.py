"""Mask R-CNN on any step of the roadmap from ResNet-50 to ConvNeXt-T, COCO 3x.

Paper      Figure 2 (ImageNet only): no step but the last was trained on COCO, in mask_rcnn/convnext_t_3x
Pretrained ImageNet-1K, 224 pixels, at the first and the last step; for all others --pretrained PATH
Train      ROADMAP_STEP=inverted_bottleneck torchrun --nproc-per-node 8 tools/train.py mask_rcnn/roadmap_3x \
               --launcher pytorch --pretrained PATH
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
Status     the recipe of ConvNeXt-T at every step, not released; at the last it is mask_rcnn/convnext_t_3x

docs/roadmap.md has the steps and their costs. Batch norms keep their pretrained statistics, as usual
at two images per GPU; from random weights train with --cfg-options model.backbone.norm_eval=False.
"""

_base_ = ["../_base_/mask_rcnn.py", "../_base_/coco_3x.py"]

from convnext_dense.models.roadmap import resolve_step  # noqa: E402  (mmengine wants _base_ before any import)

step = "{{$ROADMAP_STEP:separate_downsampling}}"
public_weights = dict(
    resnet50="https://download.pytorch.org/models/resnet50-0676ba61.pth",
    separate_downsampling="https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth",
)
model = dict(
    backbone=dict(
        type="Roadmap",
        step=step,
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint=public_weights[step]) if step in public_weights else None,
    ),
    neck=dict(in_channels=list(resolve_step(step).dims)),  # bottlenecks return four times their width
)

# As for ConvNeXt-T. The number of groups follows from the depths, which differ only at resnet50.
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="layer_wise", decay_rate=0.95),
)
work_dir = f"work_dirs/roadmap_3x_{step}"  # one folder per step
