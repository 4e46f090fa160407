"""`icefs warmup`: fetches what lies below a path into the disk cache."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from icefs.cli.support.mounts import absolute, require_mount
from icefs.cli.support.options import human_bytes, json_option, print_json
from icefs.errors import InvalidInputError
from icefs.words import plural


@click.command()
@click.argument("path", default=".")
@json_option
def warmup(path: str, as_json: bool) -> None:
    """Fetch chunks into the disk cache.

    PATH is a directory or chunk in a mounted tree of a repository on a remote store. Of the chunks at and below it,
    those in the cache are not fetched again. Later mounts with the same --cache-dir read them without asking
    the store.
    """
    mounted = require_mount(path)
    if "snapshot" not in mounted.ask("info"):
        raise InvalidInputError(
            f"{path} belongs to no branch, tag or snapshot", hint=f"name one, as {mounted.root}/branches/main"
        )
    inner = absolute(path).resolve().relative_to(mounted.tree.resolve()).as_posix()
    with _bar() as show:

        def on_progress(told: dict[str, Any]) -> None:
            show(told["done_bytes"], told["bytes"])

        result = mounted.ask("warmup", on_progress=on_progress, path="" if inner == "." else inner)
    if as_json:
        print_json(result)
    else:
        are = "is" if result["chunks"] == 1 else "are"
        kept = f"{plural(result['chunks'], 'chunk')}, {human_bytes(result['bytes'])} in all, {are} in the cache"
        skipped = ""
        if result["skipped_chunks"]:
            what = plural(result["skipped_chunks"], "virtual chunk")
            skipped = f"; {what} cannot be kept: no checksum, or not allowed"
        click.echo(f"{kept}; {human_bytes(result['fetched_bytes'])} of that fetched now{skipped}")


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on a terminal; yields the function that moves it, given the bytes done, and of how many."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console  # 100 ms that a pipe does not pay
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")
        yield lambda done, total: progress.update(task, completed=done, total=total)
