"""Report versions, devices, op backend and resume; exit status 1 when something must be fixed."""

import argparse
from collections.abc import Sequence

from convnext_dense.doctor import run_checks


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    checks = run_checks()
    print(*checks, sep="\n")
    failed = sum(check.status == "fail" for check in checks)
    print(f"\n{failed} of {len(checks)} checks failed" if failed else "\nready")
    raise SystemExit(1 if failed else 0)
