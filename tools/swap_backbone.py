"""A ConvNeXt in any config: python tools/swap_backbone.py mmdet::CONFIG"""

from convnext_dense.commands.swap import main

if __name__ == "__main__":
    main()
