"""`python -m tests.lab clean` removes the worlds of runs that crashed; `list` shows them."""

import sys

from tests.lab import leftovers


def main(arguments: list[str]) -> int:
    if arguments not in (["clean"], ["list"]):
        print("usage: python -m tests.lab clean | list", file=sys.stderr)  # noqa: T201
        return 2
    for prefix in leftovers.crashed():
        for line in leftovers.found(prefix):
            print(line)  # noqa: T201
        if arguments == ["clean"]:
            leftovers.remove(prefix)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
