"""Commits while programs write (`busy_writers`), each checked with the official library."""

from pathlib import Path

import icechunk
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from tests.conformance.official import GROUP, loose_array_json
from tests.support.busy_writers import COLUMNS, TURNS, WRITERS, Ledger, number_of
from tests.support.killing import Nursery
from tests.support.mounting import Mount


def commit_while_busy(mount: Mount, official: icechunk.Repository, scratch: Path, rounds: int) -> list[list[int]]:
    """Commits again and again while programs write to an array, and checks every commit with the official library.

    Returns:
        Of each program the moments that the commits show.
    """
    (mount.path / "zarr.json").write_bytes(GROUP)
    (mount.path / "a/c").mkdir(parents=True)
    (mount.path / "a/zarr.json").write_bytes(loose_array_json((WRITERS * TURNS, COLUMNS), (1, 1)))
    stop = scratch / "stop"
    ledgers = [scratch / f"ledger-{number}" for number in range(WRITERS)]
    shown: list[list[int]] = [[] for _ in ledgers]
    with Nursery() as nursery:
        log = scratch / "writers.log"
        writers = [
            nursery.start(
                "tests.support.busy_writers:rewrite", log, str(mount.path / "a/c"), str(ledger), str(stop), number, 7,
                waits=True,
            )
            for number, ledger in enumerate(ledgers)
        ]  # fmt: skip
        for number in range(rounds + 1):
            if number == rounds:
                stop.touch()
                assert [nursery.wait(writer) for writer in writers] == [0] * WRITERS, log.read_text()
            since = [Ledger(ledger).done() for ledger in ledgers]
            # Without `include_open` a half-rewritten file stays as it was at the commit before.
            answer = mount.rpc({"op": "commit", "message": f"commit {number}", "include_open": True})[-1]
            assert answer["type"] == "result", answer
            chunks = _committed(official)
            for position, (ledger, moments) in enumerate(zip(ledgers, shown, strict=True)):
                rows = {str(position * TURNS + turn) for turn in range(TURNS)}
                found = {key: n for key, n in chunks.items() if key.partition("/")[0] in rows}
                moments.append(Ledger(ledger).check(found, since[position]))
    files = {
        str(path.relative_to(mount.path / "a/c")): number_of(path.read_bytes())
        for path in (mount.path / "a/c").rglob("*")
        if path.is_file()
    }
    assert files == chunks
    status = mount.control("status.json")
    assert not any(status["staged"].values()), status
    assert not status["untracked"]
    return shown


def _committed(official: icechunk.Repository) -> dict[str, int]:
    """Returns what the chunks hold in the newest commit."""
    store = official.readonly_session("main").store

    async def read() -> dict[str, int]:
        keys = [key async for key in store.list() if not key.endswith("zarr.json")]
        found = {}
        for key in keys:
            data = await store.get(key, default_buffer_prototype())
            assert data is not None, key
            found[key.removeprefix("a/c/")] = number_of(data.to_bytes())
        return found

    return sync(read())
