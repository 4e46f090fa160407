"""`icefs install-units`: puts systemd's units and the helpers of mount(8) and umount(8) in place, and says so."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from icefs.cli.support.completing import completion_script
from icefs.cli.support.manpages import all_pages
from icefs.cli.support.options import json_option, print_json, root_command, say
from icefs.cli.support.service_config import SYSTEM_DIRECTORY, user_directory
from icefs.daemon.mountpoints import UPDATEDB, updatedb_reads_mounts
from icefs.errors import AlreadyExistsError, EntryNotFoundError, InvalidInputError
from icefs.private import who_may_change
from icefs.words import plural, quoted

UNIT: Final = "icefs@.service"
SYSTEM_UNITS: Final = Path("/etc/systemd/system")
# umount(8) asks for the helper of the type in the kernel's table; mount(8) for that of fstab, where both may stand.
HELPERS: Final = {
    "/usr/sbin/mount.icefs": "mount.icefs",
    "/usr/sbin/mount.fuse.icefs": "mount.icefs",
    "/usr/sbin/umount.icefs": "umount.icefs",
    "/usr/sbin/umount.fuse.icefs": "umount.icefs",
}

_BY: Final = "Installed by 'icefs install-units', which may overwrite it"
_MARK: Final = f"# {_BY}; change it with 'systemctl edit'.\n"
_SHARE: Final = Path("/usr/local/share")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that is put in place: a file with a content, a link with a target, or a directory with neither.

    Attributes:
        place: Where.
        content: What a file holds; one of its first two lines says that it is ours.
        target: Where a link leads.
        is_page: Whether it is one of the many manual pages, which are counted and not listed.
    """

    place: Path
    content: str | None = None
    target: Path | None = None
    is_page: bool = False

    def is_there(self) -> bool:
        """Tells whether it is in place as it should be."""
        if self.target is not None:
            return self.place.is_symlink() and os.readlink(self.place) == str(self.target)
        if self.content is not None:
            return self.place.is_file() and self.place.read_text() == self.content
        return self.place.is_dir()

    def is_ours(self) -> bool:
        """Tells whether what is there may be replaced and removed."""
        if self.target is not None:
            return self.place.is_symlink() and Path(os.readlink(self.place)).name == self.target.name
        if self.content is not None:
            return self.place.is_file() and any(_BY in line for line in self.place.read_text().split("\n")[:2])
        return False  # a directory, whose files are not ours

    def put(self) -> None:
        """Puts it in place."""
        self.place.parent.mkdir(parents=True, exist_ok=True)
        if self.target is not None:
            self.place.unlink(missing_ok=True)
            self.place.symlink_to(self.target)
        elif self.content is not None:
            self.place.write_text(self.content)
            self.place.chmod(0o644)
        else:
            self.place.mkdir(exist_ok=True)


@click.command()
@click.option("--user", is_flag=True, help="Install the user unit, for yourself alone; no helpers, no root.")
@click.option("--prefix", metavar="DIR", help="Install below DIR instead of /, as for an image or a package.")
@click.option("--uninstall", is_flag=True, help="Remove what this command installed; configuration stays.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
def install_units(user: bool, prefix: str | None, uninstall: bool, dry_run: bool, as_json: bool) -> None:
    """Install systemd's units and mount(8)'s helper.

    With them the manual pages, and the completions of bash, zsh and fish, where these look by themselves: below
    /usr/local/share, with --user below ~/.local/share.

    Then 'systemctl enable --now icefs@NAME' mounts what /etc/icefs/NAME.toml describes, at every boot; and 'mount -t
    icefs REPO MNT', fstab lines and x-systemd.automount work.
    """
    if user and prefix is not None:
        raise InvalidInputError("--prefix is for the system's units", hint="leave out --user or --prefix")
    parts = list(_user_parts() if user else _system_parts(Path(prefix or "/")))
    done = _remove(parts, dry_run=dry_run) if uninstall else _install(parts, dry_run=dry_run)
    reloaded = False
    if prefix is None and not dry_run and any(what != "kept" for what, _ in done):
        reloaded = _reload_manager(user=user)
    warnings = [] if uninstall else list(_warnings(parts, user=user))
    if as_json:
        actions = [{"action": what, "path": str(place)} for what, place in done]
        print_json({"actions": actions, "dry_run": dry_run, "manager_reloaded": reloaded, "warnings": warnings})
        return
    pages = {part.place for part in parts if part.is_page}
    for what, place in done:
        if place in pages:
            continue
        say(f"would be {what} {quoted(str(place))}" if dry_run and what != "kept" else f"{what} {quoted(str(place))}")
    for what in dict.fromkeys(what for what, place in done if place in pages):
        count = sum(action == what and place in pages for action, place in done)
        say(f"{'would be ' * (dry_run and what != 'kept')}{what} {plural(count, 'manual page')}")
    for warning in warnings:
        say(f"icefs: warning: {warning}", err=True)
    if reloaded:
        click.echo("systemd has read its units again")
    if not uninstall:
        directory = user_directory() if user else SYSTEM_DIRECTORY
        control = "systemctl --user" if user else "systemctl"
        click.echo(f"next: write {directory}/NAME.toml, then run '{control} enable --now icefs@NAME'")


def _system_parts(root: Path) -> Iterator[Part]:
    yield Part(_below(root, SYSTEM_UNITS / UNIT), content=_unit(UNIT))
    for place, program in HELPERS.items():
        yield Part(_below(root, Path(place)), target=_program(program))
    yield Part(_below(root, SYSTEM_DIRECTORY))
    share = _below(root, _SHARE)
    yield from _documentation(share, share / "fish/vendor_completions.d")
    yield Part(share / "zsh/site-functions/_icefs", content=_completion("zsh"))


def _user_parts() -> Iterator[Part]:
    yield Part(user_directory().parent / "systemd/user" / UNIT, content=_unit(f"user/{UNIT}"))
    yield Part(user_directory())
    share = Path(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"))
    yield from _documentation(share, user_directory().parent / "fish/completions")


def _documentation(share: Path, fish: Path) -> Iterator[Part]:
    """Yields what lets `man` and the Tab key know icefs, in the places where they look by themselves."""
    for name, text in all_pages(root_command()).items():
        yield Part(share / "man" / name, content=f'.\\" {_BY}.\n{text}', is_page=True)
    yield Part(share / "bash-completion/completions/icefs", content=_completion("bash"))
    yield Part(fish / "icefs.fish", content=_completion("fish"))


def _completion(shell: str) -> str:
    first, newline, rest = completion_script(shell, root_command()).lstrip("\n").partition("\n")
    mark = f"# {_BY}.\n"
    # zsh looks into the first line for what a file completes.
    return f"{first}{newline}{mark}{rest}\n" if first.startswith("#compdef") else f"{mark}{first}{newline}{rest}\n"


def _below(root: Path, place: Path) -> Path:
    return root / place.relative_to("/")


def _unit(name: str) -> str:
    """Returns the text of a unit that runs this very icefs."""
    package = Path(__file__).parents[2]
    # In a wheel the units are in the package; in a checkout next to it.
    source = next((place / name for place in (package / "systemd", package.parent / "systemd") if place.is_dir()), None)
    if source is None:
        raise EntryNotFoundError(f"the units are not there: {package}/systemd", hint="install icefs again")
    program = _quoted(str(_program("icefs")))
    return _MARK + re.sub(r"(?m)^(Exec\w+=-?)icefs ", lambda found: f"{found[1]}{program} ", source.read_text())


def _quoted(path: str) -> str:
    """Writes a path as systemd reads it in a command line."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != path or " " in path else path


def _program(name: str) -> Path:
    """Finds a program of this installation."""
    program = Path(sys.executable).parent / name
    if program.exists():
        return program
    found = shutil.which(name)
    if found is None:
        raise EntryNotFoundError(f"the program {name} is not there: {program}", hint="install icefs with pip or uv")
    return Path(found)


def _install(parts: list[Part], *, dry_run: bool) -> list[tuple[str, Path]]:
    """Puts all parts in place; if another file is in the way, it refuses before it begins."""
    for part in parts:
        if os.path.lexists(part.place) and not part.is_there() and not part.is_ours():
            raise AlreadyExistsError(f"not replaced, for it is not ours: {part.place}", hint="move it away first")
    done = []
    mask = os.umask(0o022)  # all users may read installed files, and only the owner may change them
    try:
        for part in parts:
            if part.is_there():
                done.append(("kept", part.place))
                continue
            done.append(("replaced" if os.path.lexists(part.place) else "installed", part.place))
            if not dry_run:
                part.put()
    finally:
        os.umask(mask)
    return done


def _warnings(parts: list[Part], *, user: bool) -> Iterator[str]:
    """Says what the units run that other users can change, and what would read through the mounts."""
    runs = {Path(sys.executable), Path(__file__), *(part.target for part in parts if part.target is not None)}
    found = {reason for path in runs if path.exists() and (reason := who_may_change(path, far=True)) is not None}
    for reason in sorted(found):
        yield f"the units run what other users can change: {reason}; install icefs where only root can write"
    for part in parts:
        if part.content is None and part.target is None and part.place.is_dir():
            reason = who_may_change(part.place)
            if reason is not None:
                yield f"other users can choose what is mounted: {reason}; run 'chmod go-w' on it"
    if not user and updatedb_reads_mounts():
        yield UPDATEDB


def _remove(parts: list[Part], *, dry_run: bool) -> list[tuple[str, Path]]:
    done = []
    for part in parts:
        if not os.path.lexists(part.place):
            continue
        if not part.is_ours():
            done.append(("kept", part.place))
            continue
        done.append(("removed", part.place))
        if not dry_run:
            part.place.unlink()
    return done


def _reload_manager(*, user: bool) -> bool:
    """Lets a systemd that runs read its units again."""
    if shutil.which("systemctl") is None or not Path("/run/systemd/system").is_dir():
        return False
    command = ["systemctl", *(["--user"] if user else []), "daemon-reload"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        say(f"icefs: warning: '{' '.join(command)}' failed: {done.stderr.strip()}", err=True)
    return done.returncode == 0
