"""A process that appends N lines to a local `repo` object: `python -m tests.support.local_appender ROOT NAME N`."""

import sys

from icefs.storage.local.store import LocalStorage
from tests.support.storage_contract import append_line


def main() -> None:
    """Says that it is ready, waits for a line, appends, and prints how many tries that took."""
    root, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    storage = LocalStorage(root)
    print("ready", flush=True)
    sys.stdin.readline()
    tries = sum(append_line(storage, "repo", f"{name}.{number}".encode()) for number in range(count))
    print(tries, flush=True)


if __name__ == "__main__":
    main()
