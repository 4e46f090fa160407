"""The `-o` options of mount(8) and fstab: icefs's own long options under their names, and what mount(8) adds."""

import re
from typing import Any

import click

# What mount(8), systemd and mount.fuse3 put into every option list. The ones that forbid something are kept
# anyway: a tree of Zarr keys holds no device, no set-user-id file and nothing executable.
# fmt: off
_STANDARD = frozenset((
    "defaults", "rw", "auto", "noauto", "nofail", "user", "nouser", "users", "owner", "group", "_netdev",
    "async", "noatime", "relatime", "nodiratime", "suid", "nosuid", "dev", "nodev", "exec", "noexec",
))
# fmt: on
_STANDARD_PREFIXES = ("x-", "X-", "comment=", "uhelper=", "helper=")
_NOT_FOR_FSTAB = frozenset({"foreground", "as_json", "debug", "help", "fstab"})


def parse_option_list(text: str, known: dict[str, click.Option]) -> dict[str, Any]:
    r"""Parses `opt,opt=value,…` into values by parameter name, as click's `default_map` takes them.

    Args:
        text: The list; `\,` is a comma and `\\` a backslash within a value.
        known: The command's options by name, with `_` for `-`.

    Raises:
        click.BadParameter: an unknown option, a value too many or one too few.
    """
    values: dict[str, Any] = {}
    for escaped in re.findall(r"(?:\\.|[^,])+", text):
        item = re.sub(r"\\(.)", r"\1", escaped)
        if item in _STANDARD or item.startswith(_STANDARD_PREFIXES):
            continue
        key, equals, value = item.partition("=")
        name = "read_only" if key == "ro" else key.replace("-", "_")
        option = known.get(name)
        if option is None:
            raise click.BadParameter(f"unknown mount option: {key}", param_hint="-o")
        if option.is_flag:
            if equals:
                raise click.BadParameter(f"the mount option takes no value: {key}", param_hint="-o")
            values[name] = True
        elif not equals:
            raise click.BadParameter(f"the mount option needs a value: {key}=…", param_hint="-o")
        elif option.multiple:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    return values


def apply_fstab_options(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    """Makes what `-o` says the defaults of the command's options; the option itself on the command line wins."""
    known = {
        option.name: option
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.name not in _NOT_FOR_FSTAB
    }
    ctx.default_map = {**(ctx.default_map or {}), **parse_option_list(",".join(value), known)}


fstab_option = click.option(
    "-o",
    "fstab",
    metavar="OPT[,OPT=VALUE]...",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=apply_fstab_options,
    help="The same options in the manner of mount(8); what mount(8) itself adds is accepted.",
)
