"""What becomes of uncommitted changes when a mount ends: they are kept, committed or discarded."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from icefs.cli.support.commits import left_out_lines, run_commit
from icefs.cli.support.mounts import Mounted, raised
from icefs.cli.support.options import human_bytes
from icefs.errors import IcefsError
from icefs.words import command, plural, quoted, shell_word

_PATIENCE_S = 5.0


@dataclass(slots=True)
class Outcome:
    """What became of them.

    Attributes:
        uncommitted: The branches whose changes are kept.
        committed: The snapshots that were made, by branch.
        left_out: What these commits left out, by branch: `open`, `invalid`, `untracked` and, in `left_out`, how many.
        discarded: How many changes were dropped, by branch.
        uploads: By branch whose changes are kept: how many of its files are in the store already (`stored`), and how
            many are on their way (`pending`), with their bytes, and why the last upload failed (`error`).
        broken: The branches whose working trees cannot be opened, with their state directories.
        come_back: The command that mounts what is kept again.
    """

    uncommitted: list[str] = field(default_factory=list)
    committed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    discarded: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    come_back: str | None = None
    broken: list[tuple[str, Path]] = field(default_factory=list)

    def discard_broken(self, *, wanted: bool) -> None:
        """Removes the working trees that cannot be opened, once their daemon has ended, if that is wanted."""
        from icefs.worktree.spool.state import remove_state  # not needed by most

        for name, directory in self.broken if wanted else ():
            remove_state(directory)
            self.discarded[name] = 0

    def lines(self) -> Iterator[str]:
        """Yields what is said of it, but for the way back."""
        for name, snapshot in self.committed.items():
            yield f"committed {snapshot} to branch {quoted(name)}"
            yield from left_out_lines(self.left_out.get(name, {}))
        for name, directory in self.broken:
            keeps = "gave up the" if name in self.discarded else "keeps a"
            yield f"branch {quoted(name)} {keeps} damaged working tree in {quoted(str(directory))}"
        for name, count in self.discarded.items():
            if name not in dict(self.broken):  # nobody knows how many that one had
                yield f"dropped {plural(count, 'change')} of branch {quoted(name)}"
        for name in self.uncommitted:
            yield f"branch {quoted(name)} keeps uncommitted changes"
            if name in self.uploads:
                yield from _upload_lines(self.uploads[name])


def _upload_lines(uploads: dict[str, Any]) -> Iterator[str]:
    """Yields how far the uploads had come, and what becomes of the rest."""
    stored = f"{_files(uploads['stored'], uploads['stored_bytes'], 'is', 'are')} in the store already"
    if not uploads["pending"]:
        yield f"  {stored}"
        return
    pending = f"{_files(uploads['pending'], uploads['pending_bytes'], 'was', 'were')} still being uploaded"
    yield f"  {pending}, {stored}; the rest goes on when it is mounted again"
    if uploads["error"]:
        yield f"  the last upload failed: {uploads['error']}"


def _files(count: int, num_bytes: int, verb: str, verbs: str) -> str:
    return f"{plural(count, 'file')} ({human_bytes(num_bytes)}) {verb if count == 1 else verbs}"


def end_changes(root: Path, info: dict[str, Any], message: str | None, *, discarding: bool) -> Outcome:
    """Commits (with a message), discards or lists what is not committed in a mount.

    Raises:
        IcefsError: something could not be committed or discarded; the mount is as it was.
    """
    outcome = Outcome()
    if not info.get("writable", True) or (info.get("options") or {}).get("read_only"):
        return outcome
    is_asked = message is not None or discarding
    for branch in _uncommitted(Mounted(root, root, info), must_know=is_asked):
        if not branch.get("has_changes", True):  # a daemon from before an update does not tell
            continue
        if branch.get("error") is not None:
            if message is not None:
                raise raised(branch["error"])
            outcome.broken.append((branch["name"], Path(branch["directory"])))
            if not discarding:
                outcome.uncommitted.append(branch["name"])
            continue
        name, tree = branch["name"], Mounted(root, root / branch["path"], info)
        if message is not None:
            answer = run_commit(tree, message=message)
            outcome.committed[name] = answer["snapshot"]
            if any(answer["left_out"].values()):
                outcome.left_out[name] = {key: answer[key] for key in ("open", "invalid", "untracked", "left_out")}
        elif discarding:
            outcome.discarded[name] = tree.ask("discard", path="")["discarded"]
        else:
            outcome.uncommitted.append(name)
            uploads = branch.get("background")
            if uploads is not None and (uploads["pending"] or uploads["stored"]):
                outcome.uploads[name] = uploads
    if outcome.uncommitted or outcome.left_out:
        outcome.come_back = mount_command(root, info)
    return outcome


def _uncommitted(mount: Mounted, *, must_know: bool) -> list[dict[str, Any]]:
    """Asks which branches have changes. A daemon that does not say so keeps nobody from unmounting."""
    answer: list[list[dict[str, Any]]] = []
    failure: list[IcefsError | OSError] = []

    def ask() -> None:
        try:
            answer.append(mount.ask("uncommitted")["branches"])
        except (IcefsError, OSError) as error:
            failure.append(error)

    # A daemon that hangs would hang us too; a thread left behind does not keep the process from ending.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(None if must_know else _PATIENCE_S)
    if must_know and failure:
        raise failure[0]
    return answer[0] if answer else []


def mount_command(root: Path, info: dict[str, Any]) -> str:
    """Returns the command line that makes a mount again as it is, and finds its working trees."""
    # Not needed by an unmounting that leaves nothing behind.
    from icefs.cli.support.mount_options import DEFAULTS
    from icefs.daemon.options import default_log_file, default_state_dir

    given = info.get("options") or {}
    defaults = {
        **DEFAULTS,
        "state_dir": str(default_state_dir()),
        "log_file": str(default_log_file(str(root))),
    }
    options = {
        name.removesuffix("_s"): _FORMATS.get(name, str)(value)
        for name in _OPTIONS
        if (value := given.get(name)) is not None and value != defaults[name]
    }
    name = "mount --allow-other" if given.get("allow_other") else "mount"
    # The name of a branch may begin with a dash, a prefix of virtual chunks is a URL.
    name += "".join(f" --allow-virtual {shell_word(prefix)}" for prefix in given.get("allow_virtual") or ())
    return command(name, str(given.get("repository") or info["repository"]), str(root), **options)


_OPTIONS: Final = (
    *("branch", "state_dir", "uid", "gid", "umask", "poll_interval_s", "upload_after_s", "pack_size"),
    *("cache_dir", "cache_size", "log_file", "log_format", "log_level", "metrics", "fuse_library"),
)
"""The options of a mount that are part of its command line, as `info.json` names them, in this order."""

_FORMATS: Final[Mapping[str, Callable[[Any], str]]] = {
    "umask": lambda value: f"{value:03o}",
    "poll_interval_s": lambda value: f"{value:g}",
    "upload_after_s": lambda value: f"{value:g}",
}
