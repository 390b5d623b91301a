"""The COCO recipe for Swin Transformers, as released: one learning rate for all layers."""

_base_ = "./coco_3x.py"

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            absolute_pos_embed=dict(decay_mult=0.0),
            relative_position_bias_table=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
        )
    )
)
