"""Rebases over groups whose consolidated metadata both sides rewrote.

A group's `zarr.json` may hold a copy of the metadata of all nodes below it. zarr-python and xarray rewrite that copy
whenever they add an array, so two people who add different arrays to one group both rewrite its `zarr.json`. The copy
can be made again at any time. Such a pair of versions is therefore not a conflict that a person has to settle.

Source: zarr-python `zarr.core.group.ConsolidatedMetadata`; format notes §5.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from icefs.engine.read.session import Session
from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.conflicts import Conflict, ConflictSolver
from icefs.format.ids import NodeId
from icefs.format.snapshot.nodes import NodeType
from icefs.format.transaction_log import TransactionLog

CONSOLIDATED: Final = "consolidated_metadata"
"""The member of a group's `zarr.json` that holds the copy."""


@dataclass(frozen=True, slots=True)
class ConsolidatedMetadataSolver:
    """Keeps our version of a group's `zarr.json` where both sides changed its consolidated metadata alone.

    The result may lack what the others added to the copy: the group has to be consolidated again. All else is up to
    another solver. The official library has no such solver, and fails.

    Attributes:
        solver: Settles all other conflicts.
    """

    solver: ConflictSolver

    def solve(
        self, theirs: TransactionLog, their_session: Session, ours: ChangeSet, our_base: Session
    ) -> tuple[ChangeSet, list[Conflict]]:
        """Replays changes over one transaction log, as `ConflictSolver` says."""
        settled = frozenset(_settled(theirs, their_session, ours, our_base))
        if settled:
            kept = tuple(node_id for node_id in theirs.updated_groups if node_id not in settled)
            theirs = replace(theirs, updated_groups=kept)
        return self.solver.solve(theirs, their_session, ours, our_base)


def _settled(theirs: TransactionLog, their_session: Session, ours: ChangeSet, our_base: Session) -> Iterator[NodeId]:
    """Yields the groups that both sides updated, and whose three versions differ in that one member alone."""
    for node_id in theirs.updated_groups:
        node = ours.updated.get(node_id)
        if node is None or node.node_type != NodeType.GROUP:
            continue
        base, there = our_base.snapshot.node_by_id(node_id), their_session.snapshot.node_by_id(node_id)
        if base is None or there is None:
            continue
        versions = [_document(data) for data in (base.user_data, there.user_data, node.user_data)]
        copies = [None if version is None else version.pop(CONSOLIDATED, None) for version in versions]
        if any(copies[1:]) and versions[0] is not None and versions[0] == versions[1] == versions[2]:
            yield node_id


def _document(data: bytes) -> dict[str, Any] | None:
    """Reads a zarr.json; numbers stay the texts that they are, since 1 is not 1.0. None where it is no JSON object."""
    try:
        document = json.loads(data, parse_int=_number, parse_float=_number, parse_constant=_number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    return document


def _number(text: str) -> tuple[str]:
    return (text,)
