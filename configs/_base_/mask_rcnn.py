"""Mask R-CNN of the paper: mmdet's."""

_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

# As released: proposals that clipping left without area are kept; mmdet 3 drops them at 0.
model = dict(
    train_cfg=dict(rpn_proposal=dict(min_bbox_size=-1)),
    test_cfg=dict(rpn=dict(min_bbox_size=-1)),
)
