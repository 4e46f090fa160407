"""`make bench`: measures icefs and prints the tables of `RESULTS.md`.

Times are wall seconds of client processes. Each comparison runs its two sides in turn, several rounds, everything
freshly mounted; the table shows the medians and the median of the ratios, which is what to quote: single times say
more about the machine than about icefs.

    python -m tests.benchmarks [--rounds N] [--only SUBSTRING] [--json FILE]
"""

import argparse
import json
import os
import platform
import tempfile
from collections import ChainMap
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.merge_side import MERGE_SIDE
from tests.benchmarks.read_side import READ_SIDE
from tests.benchmarks.remote_peers import REMOTE_PEERS
from tests.benchmarks.remote_side import REMOTE_SIDE
from tests.benchmarks.remote_writes import REMOTE_WRITES
from tests.benchmarks.transfer_side import TRANSFER_SIDE
from tests.benchmarks.view_side import VIEW_SIDE
from tests.benchmarks.write_side import WRITE_SIDE


def machine() -> str:
    """Describes the machine in one line."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} × {model}, {memory} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def main() -> None:
    """Runs the benchmarks and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tempfile.tempdir = os.environ.get("TMPDIR")
    rows = []
    print(f"\n{machine()}\n\n| what | icefs | other | ratio | target | |\n|---|---:|---:|---:|---:|---|")
    sides = (READ_SIDE, WRITE_SIDE, MERGE_SIDE, VIEW_SIDE, TRANSFER_SIDE, REMOTE_SIDE, REMOTE_WRITES, REMOTE_PEERS)
    for what, measure in ChainMap(*reversed(sides)).items():
        if arguments.only not in what:
            continue
        row = measure(what, arguments.rounds)
        rows.append(row)
        theirs = "" if row.theirs is None else f"{row.theirs:.3g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}×"
        print(
            f"| {row.what} | {row.ours:.3g} | {theirs} | {ratio} | {row.target} | {'✓' if row.met else '✗'} |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
