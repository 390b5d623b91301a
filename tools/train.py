"""Train a detector or segmentor: python tools/train.py configs/mask_rcnn/convnext_t_3x.py"""

from convnext_dense.commands.train import main

if __name__ == "__main__":
    main()
