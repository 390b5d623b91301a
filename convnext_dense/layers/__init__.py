"""The layers of the blocks, and their faster equivalents.

``basic`` (norms, drop path, GRN, atrous downsampling), ``lean_block`` (the pointwise part in training
with half the usual memory), ``fused_block`` (the block for inference), ``onednn_linear`` (products by
oneDNN), ``resized_conv`` (a convolution over resized maps), ``resized_loss`` (cross entropy of resized
logits).
"""
