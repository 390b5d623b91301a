"""Pictures of runs and results: python tools/plot.py curves RUN"""

from convnext_dense.commands.plot import main

if __name__ == "__main__":
    main()
