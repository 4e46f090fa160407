"""The topics of `icefs help`: their names, and their sources in Markdown (`icefs/cli/topics`)."""

from importlib import resources
from typing import Final

from icefs.cli.support.exit_codes import EXIT_CODES

TOPICS: Final = (
    "layout",
    "writing",
    "commits",
    "conflicts",
    "merging",
    "copies",
    "promises",
    "transfer",
    "views",
    "python",
    "s3",
    "gcs",
    "azure",
    "caching",
    "containers",
    "services",
    "fstab",
    "monitoring",
    "troubleshooting",
    "exit-codes",
    "json",
    "environment",
)


def topic_source(name: str) -> str:
    """Returns a topic in Markdown; `name` is one of `TOPICS`."""
    if name == "exit-codes":
        items = [f"- `{code}`: {meaning}" for code, meaning in EXIT_CODES.items()]
        return "\n".join(["# What the exit code of a command means", "", *items, ""])
    if name == "json":
        return resources.files("icefs.cli").joinpath("JSON.md").read_text()
    return resources.files("icefs.cli").joinpath("topics", f"{name}.md").read_text()


def topic_title(name: str) -> str:
    """Returns a topic's title: the first line of its source, which has no marks in it."""
    return topic_source(name).partition("\n")[0].removeprefix("# ")
