"""Mask R-CNN of the paper, with the settings of the release. A recipe states backbone and widths.

Types of this package are mmdet's classes. Under fp16 they keep coordinates, targets, losses and NMS in
float32, as released; mmdet 3 does not. They also pad masks as released (docs/deviations.md).
"""

model = dict(
    type="MaskRCNN",
    data_preprocessor=dict(
        type="convnext_dense.DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],  # ImageNet's, as for the pretrained weights
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,  # the stride of stage 3
        pad_mask=True,
    ),
    # Strides 4, 8, 16, 32 of the backbone, and 64 for the RPN alone. in_channels: the recipe.
    neck=dict(type="FPN", out_channels=256, num_outs=5),
    # An anchor's side is 8 strides, from 32 to 512 pixels. 1280x800 pixels have 85,260 places on the five
    # levels, hence 255,780 anchors.
    rpn_head=dict(
        type="convnext_dense.RPNHead",
        in_channels=256,
        feat_channels=256,
        anchor_generator=dict(
            type="AnchorGenerator", scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    roi_head=dict(
        type="StandardRoIHead",
        bbox_roi_extractor=dict(
            type="convnext_dense.SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),  # a sample per pixel
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(
            type="convnext_dense.Shared2FCBBoxHead",
            in_channels=256,
            roi_feat_size=7,  # 7 x 7 x 256 = 12,544 inputs of the first layer
            fc_out_channels=1024,
            num_classes=80,
            reg_class_agnostic=False,  # a box for each class
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
            ),
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0),
        ),
        mask_roi_extractor=dict(
            type="convnext_dense.SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type="convnext_dense.FCNMaskHead",
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=80,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,  # an object without such an anchor takes its best one
                ignore_iof_thr=-1,
            ),
            sampler=dict(
                type="RandomSampler", num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False
            ),
            allowed_border=-1,  # anchors may cross the border of the image
            pos_weight=-1,
            debug=False,
        ),
        # As released: proposals without area after clipping are kept; with 0, mmdet 3 drops them.
        rpn_proposal=dict(
            nms_pre=2000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=-1
        ),
        rcnn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(
                type="RandomSampler", num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
            ),
            mask_size=28,  # 14 pixels of the extractor, doubled by the mask head
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=-1),
        rcnn=dict(
            score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5
        ),
    ),
)
