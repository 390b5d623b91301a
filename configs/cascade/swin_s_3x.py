"""Cascade Mask R-CNN, Swin-S, COCO 3x: baseline of the same table.

Paper      Table 3: box AP 51.9, mask AP 45.0; 838 GMACs at 1280x800
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py cascade/swin_s_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
"""

_base_ = "./swin_t_3x.py"

model = dict(
    backbone=dict(
        depths=(2, 2, 18, 2),
        init_cfg=dict(
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth"
        ),
    )
)
