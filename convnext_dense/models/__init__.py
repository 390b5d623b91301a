"""Whole networks and their parameter layout.

``archs`` (sizes), ``convnext`` and ``isotropic`` (the backbones), ``roadmap`` (from ResNet-50 to
ConvNeXt), ``pyramid`` (levels from one map), ``classifier``, ``layer_decay`` (groups of parameters),
``compile``.
"""
