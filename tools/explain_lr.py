"""Groups and learning rates of a recipe: python tools/explain_lr.py CONFIG"""

from convnext_dense.commands.explain_lr import main

if __name__ == "__main__":
    main()
