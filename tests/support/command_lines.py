"""What the `icefs` command is asked to do in tests of its words: a command line for each leaf, and reading one back."""

import shlex
from collections.abc import Iterator

import click

from icefs.cli.main import icefs
from icefs.cli.support.registry import COMMANDS
from tests.support.hostile_words import printed_commands

# By leaf: {R} is a repository, {Z} a directory with a Zarr hierarchy, {O} a place where nothing is, {M} an empty
# directory, {S} a root of state directories, {T} a snapshot of the repository, {A} one of its arrays, {K} a key.
ON_A_REPOSITORY = {
    "init": "init {R}",
    "mount": "mount {R} {M} --branch main --state-dir {S}",
    "diff": "diff {R} v1.0 main --chunks",
    "doctor": "doctor {R} --state-dir {S}",
    "info": "info {R}",
    "log": "log {R}",
    "blame": "blame {R} {A}",
    "merge": "merge warmer --repo {R}",
    "cherry-pick": "cherry-pick warmer --repo {R}",
    "revert": "revert main --repo {R}",
    "restore": "restore {A} --from v1.0 --repo {R}",
    "clone": "clone {R} {O}",
    "pull": "pull {R} --repo {R}",
    "push": "push {R} --repo {R}",
    "branch list": "branch list {R}",
    "branch create": "branch create fresh {T} --repo {R}",
    "branch delete": "branch delete warmer --repo {R}",
    "branch reset": "branch reset warmer v1.0 --repo {R}",
    "tag list": "tag list {R}",
    "tag create": "tag create fresh {T} --repo {R}",
    "tag delete": "tag delete v1.0 --repo {R}",
    "ls": "ls {R} -lR",
    "cat": "cat {R} {K}",
    "import": "import {Z} {R} --path fresh -m data",
    "export": "export {R} {O}",
    "stats": "stats {R}",
    "fsck": "fsck {R}",
    "expire": "expire {R} --older-than 0s",
    "gc": "gc {R} --older-than 0s --force",
    "rewrite-manifests": "rewrite-manifests {R}",
    "upgrade": "upgrade {R}",
    "config get": "config get --repo {R}",
    "config set": "config set compression.level=6 --repo {R}",
    "inspect": "inspect {R}",
}
"""The commands that take the location of a repository."""

ON_A_MOUNT = {
    "status": "status {M}",
    "commit": "commit {M} -m data",
    "discard": "discard {M} --all",
    "rebase": "rebase {M}",
    "refresh": "refresh {M}",
    "top": "top {M} --once",
    "log-level": "log-level {M} debug",
    "warmup": "warmup {M}",
    "umount": "umount {M}",
}
"""Those that take a place in a mount and nothing else."""

ON_OTHERS = {
    "serve": "serve {O}",
    "install-units": "install-units --prefix {O}",
    "sessions": "sessions --state-dir {S}",
    "sessions commit": "sessions commit abcdef -m data --state-dir {S}",
    "sessions discard": "sessions discard abcdef --state-dir {S}",
    "sessions prune": "sessions prune --state-dir {S}",
    "sessions export": "sessions export abcdef {O} --state-dir {S}",
    "config check": "config check {O}",
    "help": "help",
    "completion": "completion bash",
}
"""Those that take neither."""

EVERY_LINE = {**ON_A_REPOSITORY, **ON_A_MOUNT, **ON_OTHERS}

# Where a message has a word in place of what its reader has to choose.
_CHOICES = {"AGE": "1h", "LEVEL": "debug", "…": "x", "URL_PREFIX": "s3://x/"}


def leaves() -> Iterator[str]:
    """Yields the names of all commands that do something, such as `branch list`."""
    for name in COMMANDS:
        command = _command(name)
        if not isinstance(command, click.Group):
            yield name
            continue
        if command.invoke_without_command:
            yield name
        yield from (f"{name} {inner}" for inner in command.commands)


def _command(name: str) -> click.Command:
    command = icefs.get_command(click.Context(icefs), name)
    assert command is not None, name
    return command


def parse(words: list[str]) -> None:
    """Has the command line's own parser read the words behind `icefs`, and does nothing else.

    Raises:
        click.ClickException: it does not take them.
    """
    words = [_CHOICES.get(word, word) for word in words]
    context = icefs.make_context("icefs", list(words))
    group: click.Group = icefs
    rest = [*context._protected_args, *context.args]
    while True:
        name, command, rest = group.resolve_command(context, rest)
        assert command is not None, words
        context = command.make_context(name, rest, parent=context)
        if not isinstance(command, click.Group):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        group = command


def check_commands(text: str) -> list[str]:
    """Holds the command lines that a text gives its reader to the parser; returns them."""
    found = printed_commands(text)
    for line in found:
        words = shlex.split(line)
        assert words[0] == "icefs", line
        try:
            parse(words[1:])
        except click.ClickException as error:
            raise AssertionError(f"{line!r} is no command line: {error.format_message()}") from error
    return found
