"""The backbone in mmpretrain, through the root registry: a classifier that trains and predicts."""

import pytest
import torch


def test_a_classifier_of_mmpretrain():
    pytest.importorskip("mmpretrain", exc_type=ImportError)
    import mmpretrain.models  # noqa: F401
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

    import convnext_dense.mm  # noqa: F401

    init_default_scope("mmpretrain")
    model = MODELS.build(
        dict(
            type="ImageClassifier",
            # mmpretrain has a ConvNeXt of its own; the root registry's is named by its scope
            backbone=dict(type="mmengine.ConvNeXt", arch="atto", out_indices=-1),
            neck=dict(type="GlobalAveragePooling"),
            head=dict(
                type="LinearClsHead", num_classes=3, in_channels=320, loss=dict(type="CrossEntropyLoss")
            ),
            data_preprocessor=dict(mean=[123.675] * 3, std=[58.395] * 3, to_rgb=True, num_classes=3),
        )
    )
    assert type(model.backbone).__module__ == "convnext_dense.mm.models.backbones"
    wrapper = build_optim_wrapper(
        model,
        dict(
            type="OptimWrapper",
            optimizer=dict(type="AdamW", lr=1e-3),
            constructor="LayerDecayOptimWrapperConstructor",
            paramwise_cfg=dict(decay_rate=0.9),
        ),
    )
    images = [torch.randint(256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    batch = dict(inputs=images, data_samples=[DataSample().set_gt_label(i) for i in range(2)])
    before = model.backbone.stages[0][0].dwconv.weight.clone()
    losses = model.train_step(batch, wrapper)
    assert losses["loss"].isfinite() and not torch.equal(before, model.backbone.stages[0][0].dwconv.weight)
    model.eval()
    with torch.no_grad():
        predictions = model.test_step(batch)
    assert predictions[0].pred_score.shape == (3,)
    assert predictions[0].pred_score.sum().item() == pytest.approx(1, abs=1e-5)
