"""Predict on your own images: python tools/predict.py CONFIG CHECKPOINT IMAGES"""

from convnext_dense.commands.predict import main

if __name__ == "__main__":
    main()
