"""Room of whole networks and of their parameter layout.

``archs`` (sizes), ``convnext`` and ``isotropic`` (the backbones), ``roadmap`` (from ResNet-50 to
ConvNeXt), ``pyramid`` (levels out of one map), ``classifier``, ``layer_decay`` (groups of parameters),
``compile``.
"""
