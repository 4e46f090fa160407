"""`icefs config`: shows and changes what a repository has saved of its configuration."""

import difflib
import json
from collections.abc import Iterator
from typing import Any

import click

from icefs.cli.support.config_keys import settings_tree
from icefs.cli.support.options import Group, json_option, print_json, say
from icefs.cli.support.repos import locate, open_writable
from icefs.engine.read.store_settings import check_config, unheeded_fields
from icefs.engine.write.repository import WritableRepository
from icefs.errors import FormatError, InvalidInputError
from icefs.format.config.codec import parse_config
from icefs.format.config.values import RepositoryConfig
from icefs.format.flat.flexbuffer import encode_flexbuffer
from icefs.storage.url import redact
from icefs.words import quoted, visible_json

_repo_option = click.option(
    "--repo", metavar="PATH|REPO", help="The repository, or its mount; by default that of the current directory."
)


@click.group(cls=Group)
def config() -> None:
    """Show and change the saved configuration.

    Every program that opens the repository takes it from there, the official library included. Examples:

    \b
    icefs config get
    icefs config set inline_chunk_threshold_bytes=1024 compression.level=6
    icefs config set --unset inline_chunk_threshold_bytes
    """  # noqa: D301  (click reads the backspace)


@config.command("get")
@click.argument("key", required=False)
@_repo_option
@json_option
def get(key: str | None, repo: str | None, as_json: bool) -> None:
    """Show the configuration, or what is set at KEY, such as compression.level."""
    tree = settings_tree(_saved(open_writable(locate(repo, is_repo=True).location)))
    value = tree if key is None else _find(tree, key)
    if as_json or key is not None:
        print_json(value)
        return
    for name, leaf in _leaves(value):
        click.echo(f"{quoted(name)}={visible_json(json.dumps(leaf, ensure_ascii=False))}")


@config.command("set")
@click.argument("settings", metavar="KEY=VALUE...", nargs=-1)
@click.option("--unset", multiple=True, metavar="KEY", help="Go back to the default of KEY (repeatable).")
@_repo_option
@click.option("--dry-run", is_flag=True, help="Show what the configuration would be, and save nothing.")
@json_option
def set_(settings: tuple[str, ...], unset: tuple[str, ...], repo: str | None, dry_run: bool, as_json: bool) -> None:
    """Save settings; a value is JSON, or else text. 'icefs config get --json' shows all keys."""
    if not settings and not unset:
        raise InvalidInputError("nothing to set", hint="for example: icefs config set compression.level=6")
    repository = open_writable(locate(repo, is_repo=True).location)
    tree = settings_tree(_saved(repository))
    for key in unset:
        _put(tree, key, None)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InvalidInputError(f"not KEY=VALUE: {setting}", hint="for example: compression.level=6")
        _put(tree, key, _value(text))
    try:
        changed = parse_config(encode_flexbuffer(tree))
    except FormatError as error:
        reason = error.facts.get("reason", error.own_message)
        raise InvalidInputError(f"not a configuration: {reason}", hint="'icefs config get --json' shows one") from error
    check_config(changed)
    for name in unheeded_fields(repository.storage, changed):
        say(f"note: {name} has no effect in icefs", err=True)
    if not dry_run:
        repository.config = changed
        repository.save_config()
    if as_json:
        print_json(settings_tree(changed))
    else:
        click.echo("would save the configuration" if dry_run else "saved the configuration")


@config.command("check")
@click.argument("file", metavar="FILE")
@json_option
def check(file: str, as_json: bool) -> None:
    """Check the configuration file of a service, such as /etc/icefs/NAME.toml; see 'icefs serve --help'."""
    from icefs.cli.support.service_config import check_file, find_config  # with all of `icefs mount`

    path = find_config(file)
    options, problems = check_file(path)
    if as_json:
        found = [problem._asdict() for problem in problems]
        print_json({"file": str(path), "ok": options is not None, "problems": found})
    elif options is not None:
        say(f"{quoted(str(path))}: ok: {quoted(redact(options.repository))} at {quoted(options.mountpoint)}")
    for problem in problems if not as_json else []:
        say(f"icefs: {problem.text(path)}", err=True)
    if options is None:
        click.get_current_context().exit(2)


def _saved(repository: WritableRepository) -> RepositoryConfig:
    """Returns what is saved, without the defaults."""
    return WritableRepository.fetch_config(repository.storage) or RepositoryConfig()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields what is set, by dotted key."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{name}" if prefix else name)
    elif value is not None:
        yield prefix, value


def _find(tree: Any, key: str) -> Any:
    value = tree
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            raise _unknown(tree, key)
        value = value[name]
    return value


def _put(tree: Any, key: str, value: Any) -> None:
    *above, last = key.split(".")
    place = tree
    for depth, name in enumerate(above):
        if not isinstance(place, dict) or (depth == 0 and name not in place):
            raise _unknown(tree, key)
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
    if not isinstance(place, dict) or (not above and last not in place):
        raise _unknown(tree, key)
    place[last] = value


def _unknown(tree: Any, key: str) -> InvalidInputError:
    close = difflib.get_close_matches(key.partition(".")[0], list(tree), 1)
    hint = f"did you mean {close[0]}?" if close else "'icefs config get --json' shows all keys"
    return InvalidInputError(f"there is no setting {quoted(key)}", hint=hint)
