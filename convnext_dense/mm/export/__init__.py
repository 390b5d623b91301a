"""A trained model -> one ONNX file of standard operators, and the proof that it computes the same.

operators (NMS and RoIAlign with fixed sizes, and their ONNX form), fixed_size (best of, gather, pooling),
prepare (RGB pixels -> what the network sees), detectors, segmentors (whole models without data-dependent
shapes), kinds (what can be exported), describe (the metadata), write, check, quantise.
"""
