"""What the daemon's process uses."""

import os
import resource
from pathlib import Path


def process_facts() -> dict[str, float]:
    """Returns what this process uses."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text(errors="replace").splitlines() if ":" in line
    )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "threads": int(status.get("Threads", "0")),
        "open_fds": len(os.listdir("/proc/self/fd")),
        "max_fds": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "resident_bytes": int(status.get("VmRSS", "0 kB").split()[0]) * 1024,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 6),
    }
