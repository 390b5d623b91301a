"""Cascade Mask R-CNN, ConvNeXt-B pretrained on ImageNet-22K, COCO 3x.

Paper      Table 3: box AP 54.0, mask AP 46.9; 964 GMACs at 1280x800; 146 M parameters
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py cascade/convnext_b_in22k_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
"""

_base_ = "./convnext_b_3x.py"

model = dict(
    backbone=dict(
        drop_path_rate=0.6,
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth"),
    ),
)

# Half the rate of the ImageNet-1K model.
optim_wrapper = dict(optimizer=dict(lr=1e-4))
