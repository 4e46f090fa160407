"""`icefs rewrite-manifests`: writes a branch's manifests again."""

from typing import Any

import click

from icefs.cli.support.options import (
    dry_run_option,
    json_option,
    print_json,
    repo_argument,
)
from icefs.cli.support.repos import DEFAULT_BRANCH, locate, open_writable
from icefs.words import plural, quoted


@click.command("rewrite-manifests")
@repo_argument
@click.option("-m", "--message", default="rewrite manifests", show_default=True, help="The commit message.")
@click.option("--branch", default=DEFAULT_BRANCH, show_default=True, help="The branch to commit to.")
@click.option("--amend", is_flag=True, help="Replace the branch's newest commit instead of adding one.")
@dry_run_option
@json_option
def rewrite_manifests(repo: str | None, message: str, branch: str, amend: bool, dry_run: bool, as_json: bool) -> None:
    """Write a branch's manifests again.

    They are divided as the configuration says now (manifest.splitting).
    """
    source = locate(repo)
    repository = open_writable(source.location)
    before = len(repository.assets.fetch_snapshot(repository.lookup_branch(branch)).manifest_files)
    if dry_run:
        facts: dict[str, Any] = {"snapshot_id": None, "manifests_before": before, "manifests": None}
    else:
        made = repository.rewrite_manifests(message, branch=branch, replace_tip=amend)
        after = len(repository.assets.fetch_snapshot(made).manifest_files)
        facts = {"snapshot_id": str(made), "manifests_before": before, "manifests": after}
    if as_json:
        print_json({**facts, "dry_run": dry_run})
    elif dry_run:
        click.echo(f"would write {plural(before, 'manifest')} of {quoted(branch)} again")
    else:
        click.echo(f"committed {facts['snapshot_id']}: {plural(before, 'manifest')} became {facts['manifests']:,}")
