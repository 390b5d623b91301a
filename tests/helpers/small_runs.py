"""Settings of the demo's segmentor that train a step in a moment, logged step by step."""

SEGMENTOR = "demo/upernet_shapes"
DIMS = [8, 16, 24, 32]
SMALL = {
    "model.backbone.arch": dict(_delete_=True, depths=[1, 1, 1, 1], dims=DIMS),
    "model.data_preprocessor.size": (64, 64),
    "model.decode_head.in_channels": DIMS,
    "model.decode_head.channels": 8,
    "model.auxiliary_head.in_channels": DIMS[2],
    "model.auxiliary_head.channels": 8,
    "default_hooks.logger.interval": 1,
    "log_processor.window_size": 1,
}
