"""Values print the facts that the official library prints, in its order."""

import re
from html import unescape
from types import ModuleType
from typing import Any

import icechunk
import pytest
import zarr

import icefs

DIFFERENCES = [
    (r"\n\n+", "\n", "icefs has a blank line between all parts of a diff; the official library not before moved nodes"),
    (r"<(?:icefs|icechunk)\.(?:\w+\.)*(\w+)( \(v\d\))?>", r"<\1>", "the library's own name, without the submodule"),
    (r"<ForkSession>", "<Session>", "icefs names a fork by its class"),
    (r"\b[0-9A-HJKMNP-TV-Z]{20}\b", "ID", "ids are random"),
    (r"(?m)^written_at: .*\d.*$", "written_at: TIME", "times differ; icefs prints one as `str` does"),
    (r"(?m)^set_at: .*$", "set_at: TIME", "times differ; icefs prints one as `str` does"),
    (r"S3 \(native\)", "S3", "the name of a part of the official library"),
    (r"(?m)^allow_http: True\n", "", "icefs allows it by the scheme of the endpoint"),
    (r"(?m)^metadata: .*\{.*$", "metadata: {}", "icefs prints a dict, the official library the names of its own types"),
]
"""The differences in the text that stay: a pattern, the text that both then have, and the reason."""


def facts(value: Any) -> list[str]:
    """Returns the lines of a value's text without the differences above."""
    text = repr(value)
    assert str(value) == text
    for pattern, common, _ in DIFFERENCES:
        text = re.sub(pattern, common, text)
    return text.splitlines()


def values(library: ModuleType) -> dict[str, Any]:
    """Builds a history of three commits, and returns its values."""
    repository = library.Repository.create(library.in_memory_storage())
    session = repository.writable_session("main")
    root = zarr.group(session.store)
    for name, size in (("<script>", 40), ("ten", 10), ("eleven", 11)):
        root.create_array(name, shape=(size,), chunks=(1,), dtype="i4")[:] = 1
    root.create_group("g")
    root.create_group("gone")
    first = session.commit("first <script>")
    session = repository.rearrange_session("main")
    session.move("/g", "/h")
    session.commit("moved")
    session = repository.writable_session("main")
    root = zarr.open_group(session.store)
    root["ten"][:3] = 5
    root["ten"].attrs["z"] = 1
    root["h"].attrs["q"] = 2
    del root["<script>"], root["gone"]
    uncommitted = session.status()
    last = session.commit("third")
    history = list(repository.ancestry(branch="main"))
    keys = {"access_key_id": "ID", "secret_access_key": "SECRET"}
    endpoint = {"endpoint_url": "http://localhost:9000", "allow_http": True}
    return {
        "repository": repository,
        "availability": repository.get_status(),
        "memory": library.in_memory_storage(),
        "local": library.local_filesystem_storage("/tmp/<script>"),
        "S3": library.s3_storage(bucket="b", prefix="p/<script>", region="us-east-1", **keys),
        "S3 elsewhere": library.s3_storage(bucket="b", prefix="p", anonymous=True, force_path_style=True, **endpoint),
        "GCS": library.gcs_storage(bucket="b", prefix="p"),
        "Azure": library.azure_storage(account="acc", container="container", prefix="p", access_key="U0VDUkVU"),
        "HTTP": library.http_storage("https://example.org/x"),
        "diff that creates": repository.diff(from_snapshot_id=history[-1].id, to_snapshot_id=first),
        "diff that updates, deletes and moves": repository.diff(from_snapshot_id=first, to_snapshot_id=last),
        "status": uncommitted,
        "newest snapshot": history[0],
        "snapshot with markup": history[2],
        "first snapshot": history[-1],
        "read-only session": repository.readonly_session("main"),
        "writable session": repository.writable_session("main"),
        "session that moves": repository.rearrange_session("main"),
        "fork": repository.writable_session("main").fork(),
        "store": repository.writable_session("main").store,
    }


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Any], dict[str, Any]]:
    return values(icefs), values(icechunk)


@pytest.mark.parametrize(
    "kind",
    [
        "diff that creates",
        "diff that updates, deletes and moves",
        "status",
        "newest snapshot",
        "snapshot with markup",
        "first snapshot",
        "read-only session",
        "writable session",
        "session that moves",
        "fork",
        "store",
        "repository",
        "availability",
        "memory",
        "local",
        "S3",
        "S3 elsewhere",
        "GCS",
        "Azure",
        "HTTP",
    ],
)
def test_the_same_facts_in_the_same_order(kind: str, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    own, official = both
    assert facts(own[kind]) == facts(official[kind])
    if isinstance(own[kind], icefs.SnapshotInfo):
        assert own[kind].metadata == official[kind].metadata
        assert f"metadata: {own[kind].metadata}\n" in repr(own[kind])
    assert "SECRET" not in repr(own[kind])
    html = own[kind]._repr_html_()
    assert "<script>" not in html
    assert unescape(html) == f"<pre>{own[kind]!r}</pre>"
