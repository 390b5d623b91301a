"""Cascade Mask R-CNN, Swin-B pretrained on ImageNet-22K, COCO 3x: baseline of the same table.

Paper      Table 3: box AP 53.0, mask AP 45.8; 982 GMACs at 1280x800
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py cascade/swin_b_in22k_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
Status     same recipe, not released
"""

_base_ = "./swin_b_3x.py"

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22k.pth"
        )
    )
)
