"""Measure recipes beside the paper's tables: python tools/benchmark.py accuracy ROW"""

from convnext_dense.commands.benchmark import main

if __name__ == "__main__":
    main()
