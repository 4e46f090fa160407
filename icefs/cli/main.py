"""The `icefs` command."""

import click


@click.group()
@click.version_option(package_name="icefs")
def main() -> None:
    """Icechunk repositories as files."""
