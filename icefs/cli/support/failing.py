"""Errors of a command that was called with `--json`: one line of JSON on standard error."""

import errno
import json
from typing import Any

import click

from icefs.errors import IcefsError
from icefs.words import visible_json


def error_line(exc: Exception, exit_code: int, message: str, hint: str | None) -> str:
    """Writes an error for programs, as the page of `--json` has it.

    Args:
        exc: What went wrong.
        exit_code: The command's exit code.
        message: What people are shown, without the hint.
        hint: What to do next.
    """
    facts: dict[str, Any] = {"kind": _kind(exc), "message": message, "hint": hint, "exit_code": exit_code}
    facts["type"] = type(exc).__name__
    if isinstance(exc, IcefsError):
        from icefs.vfs.control.rpc import error_facts  # the engine, which only such an error needs

        told = error_facts(exc)
        facts |= {key: value for key, value in told.items() if key not in facts and key != "error"}
    return visible_json(json.dumps({"error": facts}, ensure_ascii=False, default=str))


def _kind(exc: Exception) -> str:
    match exc:
        case IcefsError():
            return exc.kind
        case click.ClickException():
            return "usage"
        case OSError() if exc.errno is not None:
            return errno.errorcode.get(exc.errno, "os-error")
    return "bug"
