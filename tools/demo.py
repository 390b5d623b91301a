"""Train, evaluate and draw on synthetic scenes: python tools/demo.py"""

from convnext_dense.commands.demo import main

if __name__ == "__main__":
    main()
