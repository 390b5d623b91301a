"""Report versions, devices, op backend and resume; exit status 1 when something must be mended."""

from convnext_dense.doctor import run_checks


def main() -> None:
    checks = run_checks()
    print(*checks, sep="\n")
    failed = sum(check.status == "fail" for check in checks)
    print(f"\n{failed} of {len(checks)} checks failed" if failed else "\nready")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
