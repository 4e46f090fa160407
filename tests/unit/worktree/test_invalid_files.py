"""What is said of files that cannot be committed or imported: the path, once, and the right names of chunks."""

import json

import pytest

from icefs.cli.support.commits import left_out_lines
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError
from icefs.storage.memory import MemoryStorage
from icefs.transfer.directory_import import ImportRequest, import_directory
from icefs.transfer.scan import scan_directory
from icefs.vfs.commit.report import LISTED
from icefs.vfs.commit.staged_report import StagedReport
from icefs.vfs.control.status_text import diff_lines, status_lines
from tests.support.staging_bench import Bench, array, group

NAN = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"x": float("nan")}}).encode()
GOOD = {
    "zarr.json": group(),
    "a/zarr.json": array((4, 4), (2, 2)),
    "dots/zarr.json": array((4, 4), (2, 2), separator="."),
    "v2/zarr.json": array((4, 4), (2, 2), encoding="v2"),
    "a/g/zarr.json": group(),
    "s/zarr.json": array((), ()),
}
# What may be wrong, by the path of the file, and what is said of it.
BAD = {
    "h/zarr.json": (NAN, "is not valid: it is no JSON"),
    "cut/zarr.json": (b"{", "is not valid: it is no JSON"),
    "list/zarr.json": (b"[]", "is not valid: it is no JSON object"),
    "empty/zarr.json": (b"", "is not valid: "),
    "kind/zarr.json": (b'{"zarr_format": 3, "node_type": "tree"}', "is not valid: "),
    "shape/zarr.json": (array((4,), (2,)).replace(b"[4]", b'["4"]'), "is not valid: "),
    "huge/zarr.json": (array((1 << 33,), (1,)), "is not valid: 8589934592 chunks along one dimension are too many"),
    "naïve/zarr.json": (b"{", "is not valid: it is no JSON"),
    "a/c/2/0": (b"outside", "is outside of the grid [2, 2] of /a"),
    "a/c/0/0": (b"", "is the chunk [0, 0] of /a and is empty"),
    "a/c/1": (b"1", "is no chunk of /a: its chunks have names such as c/0/0"),
    "a/c.0.0": (b"1", "is no chunk of /a: its chunks have names such as c/0/0"),
    "a/0/0": (b"1", "is no chunk of /a: its chunks have names such as c/0/0"),
    "a/g/c/0": (b"1", "is no chunk of /a: its chunks have names such as c/0/0"),
    "dots/c/0/0": (b"1", "is no chunk of /dots: its chunks have names such as c.0.0"),
    "dots/c.0": (b"1", "is no chunk of /dots: its chunks have names such as c.0.0"),
    "v2/c/0/0": (b"1", "is no chunk of /v2: its chunks have names such as 0/0"),
    "v2/0.0": (b"1", "is no chunk of /v2: its chunks have names such as 0/0"),
    "s/0": (b"1", "is no chunk of /s: its chunks have names such as c"),
    "c/0": (b"1", "has the name of a chunk, but there is no array above it"),
    "none/c/0": (b"1", "has the name of a chunk, but there is no array above it"),
}
STATUS = {
    "kind": "branch",
    "name": "main",
    "snapshot": "S",
    "message": "m",
    "flushed_at": "t",
    "writable": True,
    "tip": "S",
    "tip_moved": False,
    "untracked": [],
}


@pytest.mark.parametrize("path", BAD)
def test_the_path_is_said_once(tmp_path, path):
    data, expected = BAD[path]
    bench = Bench(tmp_path / "tree", MemoryStorage())
    bench.write_all(GOOD | {path: data})
    staged = bench.staged()
    assert [one for one, _ in staged.invalid] == [path]
    reason = dict(staged.invalid)[path]
    assert reason.startswith(expected)
    report = StagedReport(staged, bench.session)
    row = {"path": path, "reason": reason}
    diff = report.details() | {"from": "x", "to": None, "invalid": [row], "untracked": []}
    status = STATUS | {"staged": report.summary, "invalid": [row]}
    texts = [text for _, text in (*diff_lines(diff), *status_lines(status)) if path in text]
    assert texts == [f"invalid  {path}: {reason}", f"  {path}: {reason}"]
    with pytest.raises(InvalidInputError) as caught:
        bench.commit()
    texts.append(caught.value.message)
    done = bench.commit(skip_invalid=True)
    assert [(one["path"], one["reason"]) for one in done.facts["invalid"]] == [(path, reason)]
    bench.work.close()
    for name, content in (GOOD | {path: data}).items():
        file = tmp_path / "z" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert scan_directory(str(tmp_path / "z")).invalid == [(path, reason)]
    with pytest.raises(InvalidInputError) as caught:
        import_directory(
            WritableRepository.create(MemoryStorage()), ImportRequest(str(tmp_path / "z"), tmp_path / "state")
        )
    texts.append(caught.value.message)
    for text in texts:
        assert text.count(path) == 1, text
        assert f"{path} {reason}" in text.replace(f"{path}: ", f"{path} ")


def test_a_commit_says_how_many_files_it_left_out_and_lists_the_first(tmp_path):
    bench = Bench(tmp_path / "tree", MemoryStorage())
    bench.write_all(GOOD | {f"note {number:04}": b"?" for number in range(LISTED + 3)})
    facts = bench.commit().facts
    assert facts["left_out"] == {"open": 0, "invalid": 0, "untracked": LISTED + 3}
    assert facts["untracked"] == [f"note {number:04}" for number in range(LISTED)]
    lines = list(left_out_lines(facts))
    assert lines[-1] == f"and {LISTED + 3 - 20} more (untracked): 'icefs status' lists them"
    assert lines[:-1] == [f"untracked, not committed: {name}" for name in facts["untracked"][:20]]
    bench.work.close()


def test_what_is_left_out_is_named_and_whether_the_snapshot_keeps_what_it_was(tmp_path):
    bench = Bench(tmp_path / "tree", MemoryStorage())
    bench.write_all(GOOD | {"a/c/0/0": b"good"})
    bench.commit()
    bench.write_all({"a/c/0/0": b"", "a/c/1/1": b"", "a/g/zarr.json": NAN, "h/zarr.json": NAN, "a/c/0/1": b"1"})
    done = bench.commit(skip_invalid=True)
    keeps = {one["path"]: one["keeps"] for one in done.facts["invalid"]}
    assert keeps == {"a/c/0/0": True, "a/c/1/1": False, "a/g/zarr.json": True, "h/zarr.json": False}
    for line, one in zip(left_out_lines(done.facts), done.facts["invalid"], strict=True):
        kept = " (the commit keeps what it was)" if one["keeps"] else ""
        assert line == f"left out: {one['path']} {one['reason']}{kept}"
    assert bench.committed() == GOOD | {"a/c/0/0": b"good", "a/c/0/1": b"1"}
    bench.work.close()
