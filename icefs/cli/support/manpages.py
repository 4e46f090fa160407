"""Manual pages in roff: of the commands, of the topics (`topics`) and of mount(8)'s helpers."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from icefs.cli.support.exit_codes import EXIT_CODES
from icefs.cli.support.markdown import Span, blocks, plain
from icefs.cli.support.registry import COMMANDS
from icefs.cli.support.topics import TOPICS, topic_source, topic_title

FILES: Final = {
    "/etc/icefs/NAME.toml, ~/.config/icefs/NAME.toml": "What a service mounts: see icefs\\-services(7).",
    "$XDG_STATE_HOME/icefs": "Working trees: what is written to a mounted branch and not committed. They hold work:"
    " 'icefs sessions' lists them. By default ~/.local/state/icefs.",
    "$XDG_STATE_HOME/icefs/log": "The logs of daemons, one for each mountpoint. Old ones go: see icefs\\-caching(7).",
    "$XDG_STATE_HOME/icefs/imports, $XDG_STATE_HOME/icefs/exports": "What the store has of imported directories, and"
    " which version an exported directory has. Bounded; may be deleted while no import or export runs.",
    "$XDG_STATE_HOME/icefs/origins": "Where repositories were cloned from. Bounded; may be deleted: then 'icefs pull'"
    " and 'icefs push' need a name.",
    "$XDG_CACHE_HOME/icefs": "Chunks of remote stores, and answers about histories. May be deleted at any time. By"
    " default ~/.cache/icefs.",
    "REPO/icefs.lock#0": "The lock with which the processes of one machine take turns at writing to a local repository."
    " It is empty, no part of the format, and stays.",
}
"""Where icefs keeps what, for the manual pages."""

HELPERS: Final = {
    "mount.icefs": (
        "REPO MNT [-sfnv] [-o OPTIONS]",
        "mount(8)'s helper for Icechunk repositories",
        "Mounts a repository as 'icefs mount' does, for 'mount -t icefs', a line of fstab or a mount unit of systemd."
        "\n\nOPTIONS are the long options of 'icefs mount', separated by commas, each value behind an =; what mount(8)"
        " itself adds is accepted. An example of a line of fstab:\n\n"
        "\b\n/data/repo  /mnt/data  icefs  branch=main,allow-other,nofail  0 0",
    ),
    "umount.icefs": (
        "MNT [-flnrv]",
        "umount(8)'s helper for Icechunk repositories",
        "Unmounts as 'icefs umount' does, and returns when the daemon has ended. -l and -f detach a busy mount.",
    ),
}

_OWN_CODES: Final = {
    "fsck": {0: "the repository is whole", 1: "it was damaged, and is repaired", 4: "it is damaged"},
    "doctor": {0: "there is no problem", 1: "there is a problem"},
    "export": {7: "some chunks cannot be read; the others are exported"},
}


def _roff(text: str) -> str:
    """Writes text so that roff takes nothing in it for a request."""
    escaped = _escape(text).replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.split("\n"))


def _spans(spans: tuple[Span, ...]) -> str:
    """Writes text with code in bold."""
    return _guard("".join(f"\\fB{_roff(one.text)}\\fR" if one.is_code else _escape(one.text) for one in spans))


def _escape(text: str) -> str:
    """Writes text in ASCII: groff takes each byte of an input that names no coding for a character of its own."""
    return re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", text.replace("\\", "\\e"))


def _guard(text: str) -> str:
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _head(name: str, section: int, summary: str) -> list[str]:
    return [f'.TH "{name.upper()}" "{section}" "" "icefs" "icefs"', ".SH NAME", f"{_roff(name)} \\- {_escape(summary)}"]


def topic_page(name: str) -> str:
    """Returns a topic as a manual page of section 7."""
    lines = _head(f"icefs-{name}", 7, topic_title(name))
    lines.append(".SH DESCRIPTION")
    for block in blocks(topic_source(name)):
        if block.kind == "heading":
            lines += [".SH " + _escape(plain(block.spans)).upper()]
        elif block.kind == "code":
            lines += [".PP", ".nf", ".RS 4", _roff(plain(block.spans)), ".RE", ".fi"]
        elif block.kind == "text":
            lines += [".PP", _spans(block.spans)]
        elif block.term:
            lines += [".TP", _spans(block.term), _spans(block.spans) or "\\&"]
        elif block.kind == "item":
            lines += ['.IP "\\-" 2', _spans(block.spans)]
    lines += _see_also()
    return "\n".join(lines) + "\n"


def _see_also() -> list[str]:
    return [".SH SEE ALSO", ", ".join(["\\fBicefs\\fR(1)", *(f"\\fBicefs\\-{_roff(name)}\\fR(7)" for name in TOPICS)])]


def command_page(name: str, root: click.Group) -> str:
    """Returns a command, with the commands in it, as a manual page of section 1."""
    outer = click.Context(root, info_name="icefs")
    command = root.get_command(outer, name)
    assert command is not None  # it is in the table
    lines = _head(f"icefs-{name}", 1, COMMANDS[name].rstrip("."))
    context = click.Context(command, info_name=name, parent=outer)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            one = command.get_command(context, inner)
            assert one is not None
            lines.append(f'.SH "{_escape(context.command_path.upper())} {inner.upper()}"')
            lines += _command(one, click.Context(one, info_name=inner, parent=context), ".SS ")
    else:
        lines += _command(command, context, ".SH ")
    lines += [*_exit_status(name), *_files(), *_see_also()]
    return "\n".join(lines) + "\n"


def _command(command: click.Command, context: click.Context, heading: str) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"{heading}SYNOPSIS", f"\\fB{_roff(context.command_path)}\\fR {_roff(usage)}", f"{heading}DESCRIPTION"]
    lines += _paragraphs(command.help or "")
    rows = [
        record
        for one in command.get_params(context)
        if isinstance(one, click.Option) and (record := one.get_help_record(context)) is not None
    ]
    if rows:
        lines.append(f"{heading}OPTIONS")
        for term, text in rows:
            lines += [".TP", f"\\fB{_roff(term)}\\fR", _guard(_escape(" ".join(text.split()))) or "\\&"]
    return lines


def _paragraphs(text: str) -> Iterator[str]:
    """Yields the paragraphs of a command's help; one that begins with a backspace keeps its lines, as click has it."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield from (".PP", ".nf", ".RS 4", _roff(paragraph.removeprefix("\b\n")), ".RE", ".fi")
        else:
            yield from (".PP", _guard(_escape(" ".join(paragraph.split()))))


def _exit_status(command: str = "") -> Iterator[str]:
    yield ".SH EXIT STATUS"
    for code, meaning in {**EXIT_CODES, **_OWN_CODES.get(command, {})}.items():
        yield from (".TP", f"\\fB{code}\\fR", _escape(meaning))


def _files() -> Iterator[str]:
    yield ".SH FILES"
    for path, text in FILES.items():
        yield from (".TP", f"\\fI{_roff(path)}\\fR", _guard(_escape(text)))


def helper_page(name: str) -> str:
    """Returns the page of `mount.icefs` or `umount.icefs`, of section 8."""
    usage, summary, text = HELPERS[name]
    lines = _head(name, 8, summary)
    lines += [".SH SYNOPSIS", f"\\fB{_roff(name)}\\fR {_roff(usage)}", ".SH DESCRIPTION", *_paragraphs(text)]
    lines += [".SH EXIT STATUS"]
    for code, meaning in ((0, "success"), (1, "the command line is wrong"), (32, "the mount or unmount failed")):
        lines += [".TP", f"\\fB{code}\\fR", meaning]
    pages = ("icefs\\-mount\\fR(1)", "icefs\\-umount\\fR(1)", "icefs\\-fstab\\fR(7)", "mount\\fR(8)")
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{page}" for page in pages)]
    return "\n".join(lines) + "\n"


def main_page(root: click.Group) -> str:
    """Returns the page icefs(1)."""
    lines = _head("icefs", 1, "Icechunk repositories as files")
    lines += [".SH SYNOPSIS", "\\fBicefs\\fR COMMAND [ARGUMENTS]", ".SH DESCRIPTION"]
    lines += _paragraphs(root.help or "")
    lines.append(".SH COMMANDS")
    for name, summary in COMMANDS.items():
        lines += [".TP", f"\\fBicefs\\-{_roff(name)}\\fR(1)", _escape(summary)]
    lines.append(".SH TOPICS")
    for name in TOPICS:
        lines += [".TP", f"\\fBicefs\\-{_roff(name)}\\fR(7)", _escape(topic_title(name))]
    lines += [*_exit_status(), *_files()]
    return "\n".join(lines) + "\n"


def all_pages(root: click.Group) -> dict[str, str]:
    """Returns all manual pages, by their paths below a directory that `man` looks in."""
    pages = {"man1/icefs.1": main_page(root)}
    pages |= {f"man1/icefs-{name}.1": command_page(name, root) for name in COMMANDS}
    pages |= {f"man7/icefs-{name}.7": topic_page(name) for name in TOPICS}
    pages |= {f"man8/{name}.8": helper_page(name) for name in HELPERS}
    return pages


def write_pages(directory: Path, root: click.Group) -> list[Path]:
    """Writes all manual pages to `man1`, `man7` and `man8` of a directory, where `man` looks; returns their paths."""
    written = []
    for name, text in all_pages(root).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(path)
    return written
