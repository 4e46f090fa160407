"""What programs share that run with either library, given as the module `ic`, and what is looked at afterwards."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import icechunk
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync

import icefs
from tests.conformance.oracle import error_facts

MODULES = (icechunk, icefs)
type Program = Callable[[ModuleType, Path], Any]


def created(ic: ModuleType, path: Path, **options: Any) -> Any:
    return ic.Repository.create(ic.local_filesystem_storage(str(path)), **options)


def put(store: Any, key: str, data: bytes) -> None:
    sync(store.set(key, cpu.Buffer.from_bytes(data)))


def everything(ic: ModuleType, path: Path, **options: Any) -> dict[str, dict[str, bytes]]:
    """Returns all keys with their values, of all branches."""
    repo = ic.Repository.open(ic.local_filesystem_storage(str(path)), **options)

    async def read(store: Any) -> dict[str, bytes]:
        return {key: (await store.get(key, default_buffer_prototype())).to_bytes() async for key in store.list()}

    return {name: asyncio.run(read(repo.readonly_session(name).store)) for name in sorted(repo.list_branches())}


def messages(repo: Any, branch: str = "main") -> list[Any]:
    return [(info.message, dict(info.metadata)) for info in repo.ancestry(branch=branch)]


def outcome(ic: ModuleType, call: Callable[[], Any]) -> Any:
    try:
        call()
    except (ic.IcechunkError, ValueError, TypeError) as error:
        return error_facts(error)
    return "no error"
