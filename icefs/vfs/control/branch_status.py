"""What a writable branch shows of its changes: the contents of `status.json` and `diff.json`."""

from typing import Any

from icefs.errors import IcefsError
from icefs.format.ids import SnapshotId
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.branches.writable_branch import WritableBranch
from icefs.vfs.commit.staged_report import StagedReport, count_changes
from icefs.vfs.control import reports
from icefs.vfs.control.jobs import progress_json
from icefs.vfs.notes.consolidated import Nodes, consolidated_notes, groups_concerned
from icefs.vfs.notes.root_group import root_notes
from icefs.vfs.trees.finder import open_session
from icefs.worktree.tree import WorkTree
from icefs.worktree.upload.uploader import UploadProgress


class BranchStatus:
    """The status of one branch, in JSON.

    Concurrency: in worker threads; remembered answers are replaced as a whole.
    """

    def __init__(self, branch: BranchTree, tree: WritableBranch) -> None:
        """Takes the branch, and what writes to it."""
        self._branch = branch
        self._tree = tree
        self._known_report: StagedReport | None = None
        self._known_notes: tuple[tuple[Nodes, frozenset[str]], list[str]] | None = None

    def report(self, work: WorkTree) -> StagedReport:
        """Returns the report on staged changes, made once for each state of the tree."""
        repository = self._tree.settings.repository
        now = work.staged_now(lambda base: open_session(repository, SnapshotId.parse(base)))
        known = self._known_report
        if known is None or known.staged is not now.staged:
            known = self._known_report = StagedReport(now.staged, now.base)
        return known

    def status(self, uploading: UploadProgress | None) -> dict[str, Any]:
        """Makes `status.json`; `uploading` is how far the uploads of a commit under way are."""
        tree = self._tree
        status = reports.tree_status(tree.settings.repository, self._branch.facts(), self._branch.snapshot_id)
        status["writable"] = True
        status["refused"] = tree.checks.refusals.as_json()
        intent = None if tree.work is None else tree.work.pending_intent
        if intent is not None:
            status["pending_commit"] = intent.snapshot_id
        if uploading is not None:
            status["uploading"] = progress_json(uploading)
        if tree.work is not None:
            status["background"] = reports.background_facts(tree.work.uploads)
            status["damage"] = reports.damage_facts(tree.work)
            report = self.report(tree.work)
            status["staged"] = report.summary
            status |= _left_out(report)
            status["lost"] = sorted(report.staged.lost)
            status["notes"] = self.notes(Nodes(report.base, report.staged))
        elif self._branch.session is not None:  # else no program has looked, and status asks the store for nothing
            status["notes"] = self.notes(Nodes(self._branch.session))
        return status

    def notes(self, nodes: Nodes) -> list[str]:
        """Returns the notes about the root and consolidated metadata, worked out once for each state of the tree."""
        tree = self._tree
        followed = frozenset(tree.base.followed_groups)
        known = self._known_notes
        if known is None or known[0] != (nodes, followed):
            groups = groups_concerned(nodes, nodes.changed()) | followed
            notes = [*root_notes(nodes), *consolidated_notes(nodes, groups).values()]
            known = self._known_notes = (nodes, followed), notes
        return known[1]

    def diff(self) -> dict[str, Any]:
        """Makes `diff.json`."""
        tree = self._tree
        if tree.work is None:
            return reports.tree_diff(self._branch.snapshot_id)
        report = self.report(tree.work)
        return {"from": tree.work.base, "to": None, **report.details(), **_left_out(report)}

    def count_changes_now(self, work: WorkTree) -> int | None:
        """Counts the changes that `status` lists; None where the store does not answer."""
        try:
            report = self.report(work)
            return count_changes({"staged": report.summary, **_left_out(report)})
        except IcefsError:
            return None


def _left_out(report: StagedReport) -> dict[str, Any]:
    staged = report.staged
    return {
        "untracked": sorted(staged.untracked),
        "invalid": [{"path": path, "reason": reason} for path, reason in sorted(staged.invalid)],
        "open": [{"path": path, "reason": reason} for path, reason in sorted(staged.open)],
    }
