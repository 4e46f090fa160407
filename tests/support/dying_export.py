"""An export that is killed right before one of its steps on the disk; for `Nursery.start`."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from icefs.engine.history.key_times import KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.engine.repository import Repository
from icefs.storage.local.store import LocalStorage
from icefs.transfer.directory_export import ExportRequest, export_session
from icefs.transfer.view_export import export_view
from icefs.views.decoder import Decoding, ZarrDecoder
from icefs.views.formats import parse_format
from icefs.views.hierarchy import SessionHierarchy, times_of_history
from icefs.views.interface import HierarchyFacts, ViewDirectory

_STEPS = ("mkdir", "rename", "unlink", "rmdir", "utime", "replace", "pwrite", "copy_file_range", "ftruncate")


def export_and_die(
    report: Callable[[], None], repo: str, target: str, state: str, ref: str, delete: bool, step: int
) -> int:
    """Exports a version of a local repository; `kill -9` before the step of that number, from 1 on."""
    report()
    _die_before(step)
    with Repository.open(LocalStorage(repo)) as opened:
        session = opened.session_at(opened.resolve_ref(ref))
        times = KeyTimes(Lineages(opened.context), session.snapshot_id, session.snapshot.flushed_at)
        done = export_session(session, times, ExportRequest(target, delete=delete, state_dir=Path(state)))
    return 1 if done.failed else 0


def export_view_and_die(
    report: Callable[[], None], repo: str, target: str, state: str, ref: str, view_format: str, step: int
) -> int:
    """Exports a view of a version like `export_and_die`, without what other versions have."""
    report()
    _die_before(step)
    decoding = Decoding()
    with Repository.open(LocalStorage(repo)) as opened:

        def view_of(snapshot: str) -> tuple[ViewDirectory, HierarchyFacts]:
            session = opened.session_at(opened.resolve_ref(snapshot))
            hierarchy = SessionHierarchy(session, times=times_of_history(Lineages(opened.context), session))
            return parse_format(view_format).make().root(hierarchy, ZarrDecoder(hierarchy, decoding)), hierarchy.facts

        view, facts = view_of(ref)
        request = ExportRequest(target, delete=True, state_dir=Path(state))
        done = export_view(view, facts, view_format, request, open_earlier=lambda found, _: view_of(found)[0])
    decoding.close()
    return 1 if done.failed else 0


def _die_before(step: int) -> None:
    """Has this process killed before its step of that number on the disk."""
    lock = threading.Lock()
    left = step

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **named: Any) -> Any:
            nonlocal left
            with lock:
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **named)

        return counting

    for name in _STEPS:
        setattr(os, name, counted(getattr(os, name)))
