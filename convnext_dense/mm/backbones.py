"""The backbones by the path that pure-Python configs import, which stays when rooms move.

``from convnext_dense.mm.backbones import ConvNeXt``; the classes are in :mod:`convnext_dense.mm.models`.
"""

from convnext_dense.mm.models.backbones import ConvNeXt, IsotropicConvNeXt

__all__ = ["ConvNeXt", "IsotropicConvNeXt"]
