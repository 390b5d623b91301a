"""Room of the layers that blocks are made of, and of their faster equivalents.

``basic`` (norms, drop path, GRN, atrous downsampling), ``lean_block`` (the pointwise part in training
with half the usual memory), ``fused_block`` (the block for inference), ``onednn_linear`` (products by
oneDNN).
"""
