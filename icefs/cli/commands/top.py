"""`icefs top`: what a mount is doing, live; and `icefs log-level`."""

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from icefs.cli.support.mounts import Mounted, require_mount
from icefs.cli.support.options import human_bytes, json_option, print_json
from icefs.cli.support.rates import Sample, rates
from icefs.words import node_name, plural, quoted, visible

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_ACCESSES: Final = 200
_BESIDES: Final = 30
_CHUNK_CACHES: Final = ("memory", "disk")


@click.command()
@click.argument("path", default=".")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@click.option("--once", is_flag=True, help="Look once, after one interval, and end.")
@json_option
def top(path: str, interval: float, once: bool, as_json: bool) -> None:
    """Show live what a mount does.

    Requests by kind with their latencies, throughput, caches, the object store, what is staged and waits, and the last
    requests. PATH lies anywhere in the mount. Ctrl-C ends it. Requests that the kernel answers from its own caches are
    not seen.
    """
    mounted = require_mount(path).whole
    before = _look(mounted)
    time.sleep(interval)
    after = _look(mounted, before)
    facts = {"mountpoint": str(mounted.root), "repository": mounted.repository}
    if as_json:
        print_json({**facts, **rates(before, after)})
        return
    from rich.console import Console  # 100 ms that JSON does not pay

    console = Console()
    if once or not sys.stdout.isatty():
        console.print(_screen(facts, rates(before, after), rows=20))
        return
    from rich.live import Live

    with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            rows = max(1, console.height - _BESIDES)
            live.update(_screen(facts, rates(before, after), rows=rows), refresh=True)
            time.sleep(interval)
            before, after = after, _look(mounted, after)


def _look(mounted: Mounted, before: Sample | None = None) -> Sample:
    """Looks at a mount; its own requests are not shown, or an idle mount would look busy."""
    stats = mounted.ask("stats")
    since = 0.0 if before is None else before.stats["uptime_s"]
    answer = mounted.ask("accesses", limit=_ACCESSES, control=False, since=since, until=stats["uptime_s"])
    return Sample(stats, answer["accesses"], answer.get("control", {}))


def _screen(facts: dict[str, Any], told: dict[str, Any], *, rows: int) -> "RenderableType":
    from rich.columns import Columns
    from rich.console import Group
    from rich.text import Text

    process, loop = told["process"], told["event_loop"]
    head = Text(f"{quoted(facts['mountpoint'])}  {quoted(facts['repository'])}", style="bold")
    lines = [
        f"read {_bytes(told['read_bytes_per_s'])}/s, written {_bytes(told['written_bytes_per_s'])}/s; "
        f"cpu {process['cpu_percent']:.0f} %, memory {_bytes(process['resident_bytes'])}, "
        f"{plural(process['open_fds'], 'descriptor')}, {plural(process['threads'], 'thread')}, "
        f"event loop late by {loop['lag_us'] / 1000:.1f} ms",
    ]
    lengths = {**told["queues"], "store": told["store"]["in_flight"]}
    queues = ", ".join(f"{name} {length}" for name, length in lengths.items())
    refused = told["kernel"]["refused"]
    lines.append(f"queues: {queues}{f'; the kernel refused {refused}' if refused else ''}")
    if told["store"]["retries_per_s"]:
        lines.append(f"requests to the store are tried again, {told['store']['retries_per_s']:.1f} per s")
    if told["failures"]:
        last = told["failures"][-1]
        what = f"{last['operation']} {quoted(node_name(last['path']))}: {last['message']}"
        lines.append(f"{plural(len(told['failures']), 'failure')}, the last: {what}")
    body = Text("\n".join(map(visible, lines)))
    tables = Columns([_requests("operations", told["operations"]), _requests("store", told["store"]["requests"])])
    return Group(head, body, tables, Columns([_caches(told), _staged(told)]), _accesses(told, rows))


def _table(*headers: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _requests(what: str, kinds: dict[str, Any]) -> "Table":
    table = _table(what, "per s", "mean", "p99", "errors/s")
    for name, one in sorted(kinds.items(), key=lambda item: -item[1]["per_s"]):
        table.add_row(
            name, f"{one['per_s']:.0f}", _us(one["mean_us"]), _us(one["p99_us"]), f"{one['errors_per_s']:.0f}"
        )
    return table


def _bytes(value: float) -> str:
    return human_bytes(round(value))


def _us(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} us" if value < 10_000 else f"{value / 1000:.0f} ms"


def _caches(told: dict[str, Any]) -> "Table":
    table = _table("cache", "hits", "misses", "rate")
    for name, one in told["caches"].items():
        if not one["hits"] + one["misses"] and name not in _CHUNK_CACHES:
            continue
        rate = "-" if one["hit_rate"] is None else f"{100 * one['hit_rate']:.0f} %"
        table.add_row(name, str(one["hits"]), str(one["misses"]), rate)
    return table


def _staged(told: dict[str, Any]) -> "Table":
    from rich.text import Text

    table = _table("branch", "staged", "bytes", "to upload")
    for name, one in told["branches"].items():
        waiting = "-" if one["uploads"] is None else str(one["uploads"]["pending_files"])
        table.add_row(Text(quoted(name)), str(one["staged_files"]), human_bytes(one["staged_bytes"]), waiting)
    return table


def _accesses(told: dict[str, Any], rows: int) -> "Table":
    from rich.text import Text

    table = _table("last requests", "op", "result", "took", "bytes", "path")
    # The path gives way where the screen is narrow, on its one line.
    table.columns[5].justify, table.columns[5].no_wrap = "left", False
    for one in told["accesses"][-rows:]:
        took, path = _us(one["us"]), node_name(one["path"])
        cells = (one["time"][11:23], one["op"], one["result"], took, str(one["bytes"]))
        path_cell = Text(quoted(path), no_wrap=True, overflow="ellipsis")
        table.add_row(*(Text(quoted(cell)) for cell in cells), path_cell)
    return table
