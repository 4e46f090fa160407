"""`icefs help`: topics, commands, manual pages."""

from pathlib import Path

import click

from icefs.cli.support.options import json_option, print_json, root_command, say
from icefs.cli.support.registry import COMMANDS
from icefs.cli.support.topics import TOPICS, topic_source, topic_title
from icefs.errors import InvalidInputError
from icefs.words import plural, quoted, shell_word, suggestion


@click.command("help")
@click.argument("words", metavar="[TOPIC|COMMAND]", nargs=-1)
@click.option(
    "--man", "man_dir", type=click.Path(file_okay=False), metavar="DIR", help="Write all manual pages below DIR."
)
@json_option
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...], man_dir: str | None, as_json: bool) -> None:
    """Show help on a topic or a command, or write manual pages.

    Without a word it lists what there is. With --man it writes the same as manual pages, to man1 and man7 in DIR:
    'man -M DIR icefs-commit' shows one.
    """
    if man_dir is not None:
        from icefs.cli.support.manpages import write_pages  # reads Markdown: slow to import

        pages = [str(path) for path in write_pages(Path(man_dir), root_command())]
        if as_json:
            print_json({"pages": pages})
        else:
            say(f"wrote {plural(len(pages), 'manual page')}; 'man -M {shell_word(man_dir)} icefs' shows the first")
        return
    if not words:
        _list_topics(ctx, as_json=as_json)
        return
    name = " ".join(words)
    text, kind = (_topic_text(name), "topic") if name in TOPICS else (_command_help(ctx, words), "command")
    if as_json:
        print_json({"name": name, "kind": kind, "text": topic_source(name) if kind == "topic" else text})
    else:
        click.echo_via_pager(text + "\n")


def _list_topics(ctx: click.Context, *, as_json: bool) -> None:
    if as_json:
        topics = [{"name": name, "title": topic_title(name)} for name in TOPICS]
        commands = [{"name": name, "title": summary} for name, summary in COMMANDS.items()]
        print_json({"topics": topics, "commands": commands})
        return
    formatter = ctx.make_formatter()
    with formatter.section("Topics, for 'icefs help TOPIC'"):
        formatter.write_dl([(name, topic_title(name)) for name in TOPICS])
    with formatter.section("Commands, for 'icefs help COMMAND'"):
        formatter.write_dl(list(COMMANDS.items()))
    click.echo(formatter.getvalue().rstrip("\n"))


def _topic_text(name: str) -> str:
    from icefs.cli.support.markdown import as_text  # as above

    return as_text(topic_source(name))


def _command_help(ctx: click.Context, words: tuple[str, ...]) -> str:
    root = ctx.find_root()
    command: click.Command | None = root.command
    inner = click.Context(root.command, info_name="icefs", **root.command.context_settings)
    for depth, word in enumerate(words):
        known = command.list_commands(inner) if isinstance(command, click.Group) else []
        command = command.get_command(inner, word) if isinstance(command, click.Group) else None
        if command is None:
            known = [*TOPICS, *known] if depth == 0 else known
            raise InvalidInputError(
                f"there is no topic and no command {quoted(' '.join(words))}",
                hint=suggestion(word, known) or "'icefs help' lists both",
            )
        inner = click.Context(command, info_name=word, parent=inner, **command.context_settings)
    assert command is not None
    return command.get_help(inner)
