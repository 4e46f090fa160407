"""The commands by name. `icefs --help` shows the table without importing any of them."""

import importlib
import keyword
import os
from typing import Final

import click

COMPLETING: Final = "_ICEFS_COMPLETE"
"""The variable with which a shell asks what the Tab key could mean."""

COMMANDS: Final[dict[str, str]] = {
    "init": "Make an empty repository, with the branch main.",
    "mount": "Mount a repository as a file system.",
    "umount": "Unmount, and wait for the daemon to end.",
    "serve": "Serve the mount of a configuration file, as a service.",
    "install-units": "Install systemd's units and mount(8)'s helper.",
    "status": "Show the state of a mounted tree.",
    "diff": "Show what changed between two versions, or what is not committed yet.",
    "commit": "Commit the changes in a mounted branch.",
    "discard": "Drop uncommitted changes, at PATH or all of the branch.",
    "rebase": "Put the changes on top of what others have committed.",
    "refresh": "Let a mount look for new commits now.",
    "top": "Show live what a mount does.",
    "log-level": "Show or change how much the daemon of a mount logs.",
    "sessions": "List working trees; commit, discard or export one unmounted.",
    "doctor": "Find out why something does not work.",
    "warmup": "Fetch chunks into the disk cache.",
    "info": "Show facts about a repository or a mount.",
    "log": "Show the history of a branch, tag or snapshot.",
    "blame": "Show which commit changed each chunk of an array last.",
    "merge": "Bring what REF has to the branch, as one commit.",
    "cherry-pick": "Make the changes of commits again on the branch, each as one commit.",
    "revert": "Take back the changes of a commit on the branch, as one commit.",
    "restore": "Have a chunk, array or group of the branch be as in REF, as one commit.",
    "clone": "Make a repository of another one, on the same store or any other.",
    "pull": "Bring branches and tags of the repository FROM, with their histories.",
    "push": "Bring branches and tags of this repository to the repository TO, with their histories.",
    "branch": "List, create, delete and reset branches.",
    "tag": "List, create and delete tags.",
    "ls": "List groups, arrays and chunks.",
    "cat": "Write the bytes of a Zarr key to standard output.",
    "import": "Import a directory of Zarr v3, or files in other formats, as one commit.",
    "export": "Export a version as plain files of Zarr v3, or of another format.",
    "stats": "Show how many bytes chunks take, by array or of all versions.",
    "fsck": "Check that a repository is whole, and mend it.",
    "expire": "Take old snapshots out of the history.",
    "gc": "Delete objects that nothing needs.",
    "rewrite-manifests": "Write a branch's manifests again.",
    "upgrade": "Bring a repository of spec version 1 to version 2.",
    "config": "Show and change the saved configuration.",
    "inspect": "Show a file of the repository as JSON.",
    "help": "Show help on a topic or a command, or write manual pages.",
    "completion": "Print a script that lets a shell complete commands.",
}
"""The summary of each command, the daily ones first."""


_PACKAGES: Final = frozenset({"sessions"})
"""The commands that are packages: the command is in the module `group`."""


def load_command(name: str) -> click.Command:
    """Imports a command of the table: `log-level` is `log_level` in the module of that name.

    A name that is taken in Python has an underscore behind it.
    """
    module = attribute = name.replace("-", "_")
    if name in _PACKAGES:
        module = f"{module}.group"
    if keyword.iskeyword(name):
        module = f"{module}_"
    if keyword.iskeyword(name) or name == "help":
        attribute = f"{attribute}_"
    command = getattr(importlib.import_module(f"icefs.cli.commands.{module}"), attribute)
    assert isinstance(command, click.Command)
    if COMPLETING in os.environ:
        importlib.import_module("icefs.cli.support.completing").prepare(command, name)
    return command
