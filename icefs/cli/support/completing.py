"""Offers of the Tab key: commands and options, which click knows, and refs, mountpoints and paths.

A shell asks by running `icefs` with `_ICEFS_COMPLETE` set. Only then the parameters get types that know what to offer,
so that nothing of this costs anything otherwise. Whatever goes wrong offers nothing: a shell has no place for errors.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from icefs.cli.support.registry import COMMANDS, COMPLETING
from icefs.daemon.mountinfo import FILESYSTEM_TYPE, mount_table
from icefs.errors import IcefsError
from icefs.paths import NodePath
from icefs.words import quoted

type Offer = Callable[[click.Context, str], Iterator[CompletionItem]]


def completion_script(shell: str, root: click.Group) -> str:
    """Returns the script for `bash`, `zsh` or `fish`; `root` is the command `icefs`."""
    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    complete = kind(root, {}, "icefs", COMPLETING)
    return complete.source_template % complete.source_vars()


class _Offering(click.ParamType[Any]):
    """A parameter's type, with something to offer."""

    def __init__(self, inner: click.ParamType[Any], offer: Offer) -> None:
        self.name = inner.name
        self._inner = inner
        self._offer = offer

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads a value as before."""
        return self._inner.convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Returns what there is to choose from."""
        try:
            return list(self._offer(ctx, incomplete))
        except (IcefsError, OSError, click.ClickException):
            return []


def prepare(command: click.Command, path: str) -> None:
    """Lets a command's parameters, and those of the commands in it, offer something.

    Args:
        command: The command.
        path: Its name, with that of its group: `branch delete`.
    """
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            prepare(inner, f"{path} {name}")
    for param in command.params:
        offer = _BY_COMMAND.get((path, param.name or "")) or _BY_NAME.get(param.name or "")
        if offer is not None:
            param.type = _Offering(param.type, offer)


# What is offered.


def _refs(ctx: click.Context, *, branches: bool = False, tags: bool = False) -> Iterator[CompletionItem]:
    from icefs.cli.support.repos import locate, open_repository  # the engine: where nothing else would do

    where = _whereabouts(ctx)
    with ctx.scope():  # at whose end the repository is closed
        refs = open_repository(locate(where).location).refs()
    names = [*(refs.branches if branches else ()), *(refs.tags if tags else ())]
    yield from (CompletionItem(name) for name in sorted(set(names)))


def _whereabouts(ctx: click.Context) -> str | None:
    """Returns the repository, or the path in a mount, that the words before say."""
    given = {name: value for name, value in ctx.params.items() if value is not None}
    # Behind an option that waits for its value, click has left the arguments where they are.
    arguments = [param.name for param in ctx.command.params if isinstance(param, click.Argument)]
    given = {**dict(zip(arguments, ctx.args, strict=False)), **given}
    for name in ("repo", "repository", "path", "where"):
        value = given.get(name)
        if isinstance(value, tuple):
            value = value[0] if value else None
        if isinstance(value, str):
            return value
    return None


def _starting(items: Iterator[CompletionItem], incomplete: str) -> Iterator[CompletionItem]:
    return (item for item in items if item.value.startswith(incomplete))


def _branches(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    return _starting(_refs(ctx, branches=True), incomplete)


def _tags(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    return _starting(_refs(ctx, tags=True), incomplete)


def _any_ref(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    return _starting(_refs(ctx, branches=True, tags=True), incomplete)


def _mounts(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Offers the mountpoints of icefs, dead ones too, as they have to be unmounted most of all."""
    mountpoints = [entry.mountpoint for entry in mount_table() if entry.filesystem_type == FILESYSTEM_TYPE]
    found = [mountpoint for mountpoint in mountpoints if mountpoint.startswith(incomplete)]
    yield from (CompletionItem(mountpoint) for mountpoint in found)
    if not found:
        yield CompletionItem(incomplete, type="dir")


def _directories(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    yield CompletionItem(incomplete, type="dir")


def _files(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    yield CompletionItem(incomplete, type="file")


def _path_or_ref(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Offers what may follow a repository or a path: two versions."""
    given = ctx.params.get("where")
    if isinstance(given, tuple) and given:
        return _any_ref(ctx, incomplete)
    return _files(ctx, incomplete)


def _repository(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Offers directories, and behind an `@` the versions of the repository before it."""
    location, at, ref = incomplete.rpartition("@")
    if not at:
        yield CompletionItem(incomplete, type="dir")
        return
    from icefs.cli.support.repos import locate, open_repository  # as above

    with ctx.scope():
        refs = open_repository(locate(location).location).refs()
    for name in sorted({*refs.branches, *refs.tags}):
        if name.startswith(ref):
            yield CompletionItem(f"{location}@{name}")


def _nodes(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Offers the groups and arrays of a version, a level at a time."""
    from icefs.cli.support.repos import locate, open_version  # as above

    ref = ctx.params.get("ref")
    source = locate(_whereabouts(ctx), ref if isinstance(ref, str) else None)
    above, slash, _ = incomplete.rpartition("/")
    with ctx.scope():
        session = open_version(source)
        for name in session.children(NodePath(f"/{source.key(above)}")):
            item = f"{above}{slash}{name}"
            # What does not show cannot be typed either, and a newline would be two offers.
            if item.startswith(incomplete) and quoted(item) == item:
                is_above = session.has_children(NodePath(f"/{source.key(item)}"))
                yield CompletionItem(f"{item}/" if is_above else item)


def _keys(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Offers nodes, and the metadata of the one that is named so far."""
    yield from _nodes(ctx, incomplete)
    above, slash, rest = incomplete.rpartition("/")
    if "zarr.json".startswith(rest):
        yield CompletionItem(f"{above}{slash}zarr.json")


def _restorable(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Offers nodes of the version where the repository is named, and paths in a mount otherwise."""
    return _nodes(ctx, incomplete) if ctx.params.get("repo") is not None else _files(ctx, incomplete)


def _config_keys(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    from icefs.cli.support.config_keys import known_keys  # as above

    return _starting(map(CompletionItem, known_keys()), incomplete)


def _config_settings(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    from icefs.cli.support.config_keys import known_keys  # as above

    return _starting((CompletionItem(f"{key}=") for key in known_keys()), incomplete)


def _formats(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    from icefs.views.formats import FORMAT_TEXTS  # as above

    return _starting(map(CompletionItem, FORMAT_TEXTS), incomplete)


def _help_words(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    from icefs.cli.support.topics import TOPICS

    return _starting((CompletionItem(name) for name in (*TOPICS, *COMMANDS)), incomplete)


_BY_COMMAND: Final[dict[tuple[str, str], Offer]] = {
    ("umount", "mountpoint"): _mounts,
    ("mount", "mountpoint"): _directories,
    ("init", "repository"): _directories,
    ("clone", "source"): _directories,
    ("clone", "target"): _directories,
    ("pull", "source"): _directories,
    ("push", "target"): _directories,
    ("push", "branches"): _branches,
    ("push", "tags"): _tags,
    ("branch delete", "name"): _branches,
    ("branch reset", "name"): _branches,
    ("tag delete", "name"): _tags,
    ("cherry-pick", "commits"): _any_ref,
    ("revert", "commit"): _any_ref,
    ("restore", "path"): _restorable,
    ("diff", "where"): _path_or_ref,
    ("import", "sources"): _files,
    ("export", "directory"): _directories,
    ("config check", "file"): _files,
    ("help", "words"): _help_words,
    ("inspect", "what"): _any_ref,
    ("ls", "key"): _nodes,
    ("cat", "key"): _keys,
    ("blame", "node_path"): _nodes,
    ("export", "node"): _nodes,
    ("log", "follow"): _nodes,
    ("config get", "key"): _config_keys,
    ("config set", "settings"): _config_settings,
    ("config set", "unset"): _config_keys,
}

_BY_NAME: Final[dict[str, Offer]] = {
    "branch": _branches,
    "tag": _tags,
    "ref": _any_ref,
    "repo": _repository,
    "repository": _repository,
    "path": _files,
    "view": _formats,
    "view_format": _formats,
    "where": _files,
}
