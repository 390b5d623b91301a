"""Exported models on a machine without torch: numpy, Pillow and onnxruntime (or openvino) are enough.

runtime       `Predictor`: a picture in, detections or a label map out; and its command line
metadata      what the file says of its model: classes, scales, thresholds, windows
engines       ONNX Runtime and OpenVINO with one interface
images        pictures by Pillow with OpenCV's pixels; OpenCV's bilinear resize, bit for bit
masks         masks of detections at the size of the image, and COCO's run lengths
windows       sliding windows, and label maps of logits in bands of rows
drawing       pictures of detections and of label maps
outputs       the files of predictions, which `tools/predict.py` writes, too
"""
