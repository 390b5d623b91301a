"""Report what this machine has and lacks: python tools/doctor.py"""

from convnext_dense.commands.doctor import main

if __name__ == "__main__":
    main()
