"""A trained model as one ONNX file: python tools/export.py CONFIG CHECKPOINT -o model.onnx"""

from convnext_dense.commands.export import main

if __name__ == "__main__":
    main()
