"""Names besides the classes: labels on requests, drawings, upgrades, logging."""

import asyncio
import logging
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.etree import ElementTree

import pytest
from zarr.core.buffer import cpu
from zarr.core.sync import sync

import icefs
from tests.unit.api.test_api_writing import GROUP, array_json, put


@contextmanager
def server() -> Iterator[tuple[str, list[str]]]:
    """Serves nothing, and yields its URL and the User-Agents that asked."""
    agents: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            agents.append(self.headers["User-Agent"])
            body = b"<Error><Code>NoSuchKey</Code></Error>"
            self.send_response(404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}", agents
        finally:
            running.shutdown()
            thread.join()


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_requests_carry_their_labels(kind):
    labels = icefs.Attribution(client="weather/1.2", workload="nightly ingest", principal="ada")
    with server() as (url, agents):
        storage = (
            icefs.http_storage(url)
            if kind == "http"
            else icefs.s3_storage(
                bucket="b", prefix="p", endpoint_url=url, allow_http=True, force_path_style=True, region="us-east-1",
                access_key_id="id", secret_access_key="secret",
            )
        )  # fmt: skip
        for attribution in (None, icefs.Attribution(), icefs.Attribution(principal="ada"), labels):
            agents.clear()
            with pytest.raises(icefs.RepositoryNotFoundError):
                icefs.Repository.open(storage, attribution=attribution)
            wanted = {None: "", labels: " weather/1.2 (workload=nightly ingest; principal=ada)"}.get(attribution)
            if wanted is None:
                wanted = " (principal=ada)" if attribution.principal else ""
            assert set(agents) == {f"icefs{wanted}"}


def test_labels_stay_with_the_repository():
    labels = icefs.Attribution(client="weather/1.2")
    storage = icefs.in_memory_storage()
    assert icefs.Repository.create(storage, attribution=labels).attribution == labels
    repo = icefs.Repository.open_or_create(storage, attribution=labels)
    assert pickle.loads(pickle.dumps(repo)).attribution == repo.reopen().attribution == labels
    assert icefs.Repository.open(storage).attribution == icefs.Attribution()


@pytest.mark.parametrize(
    "wrong", [{"client": "a b"}, {"client": ""}, {"client": "a/b/c"}, {"workload": "x" * 129}, {"principal": "a;b"},
              {"workload": "\n"}, {"workload": "ü"}],
)  # fmt: skip
def test_labels_that_no_header_may_hold(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        icefs.Attribution(**wrong)


@pytest.fixture
def repo() -> icefs.Repository:
    repo = icefs.Repository.create(
        icefs.in_memory_storage(), icefs.RepositoryConfig(inline_chunk_threshold_bytes=4), check_clean_root=True
    )
    with repo.transaction("main", message="base") as store:
        put(store, "zarr.json", GROUP)
        put(store, "a/zarr.json", array_json(5))
        put(store, "a/c/0", b"x")
        put(store, "a/c/2", b"a native one")
        store.set_virtual_ref("a/c/4", "s3://bucket/key", offset=3, length=7, validate_container=False)
    return repo


def test_the_history_is_drawn(repo):
    base = repo.lookup_branch("main")
    repo.create_branch("dev", base)
    repo.create_tag("v1", base)
    for branch, message in (("main", "on main"), ("dev", "on dev\nmore"), ("main", "\033[31mred <&>")):
        with repo.transaction(branch, message=message) as store:
            put(store, "a/c/0", message.encode())
    lines = str(repo.ancestry_graph(plain=True)).splitlines()
    texts = [line.lstrip("●│─╯ ").partition(" ")[2] for line in lines if "●" in line]
    assert texts == ["(main) \ufffd[31mred <&>", "(dev) on dev", "on main", "(v1) base", "Repository initialized"]
    assert [line.rstrip() for line in lines if "●" not in line] == ["│─╯"]
    alone = str(repo.ancestry_graph(branch="dev", plain=True)).splitlines()
    assert [line[0] for line in alone] == ["●"] * 3
    assert alone == str(asyncio.run(repo.ancestry_graph_async(branch="dev", plain=True))).splitlines()
    coloured = str(repo.ancestry_graph())
    assert "\033[38;2;" in coloured
    assert "\033[31m" not in coloured
    for plain in (True, False):
        drawing = ElementTree.fromstring(repo.ancestry_graph(plain=plain)._repr_svg_())
        kinds = [each.tag.rpartition("}")[2] for each in drawing]
        assert (kinds.count("circle"), kinds.count("polyline"), kinds.count("text")) == (5, 4, 5)
    with pytest.raises(ValueError, match="exactly one"):
        repo.ancestry_graph(branch="dev", tag="v1")
    with pytest.raises(icefs.RefNotFoundError):
        repo.ancestry_graph(tag="none")


@pytest.mark.parametrize("changed", [False, True])
def test_chunks_come_as_columns(repo, changed):
    session = repo.writable_session("main")
    if changed:
        put(session.store, "a/c/1", b"y")
    store = session.store

    async def run(path: str) -> list:
        return [batch async for batch in store.array_chunk_iterator(path, 2)]

    batches = asyncio.run(run("/a"))
    assert [len(kinds) for _, kinds, *_ in batches] == ([2, 2] if changed else [2, 1])
    rows = {}
    for coords, kinds, places, offsets, lengths, inlined in batches:
        assert [str(each.dtype) for each in (coords, kinds, offsets, lengths)] == [
            "uint32",
            "uint8",
            "uint64",
            "uint64",
        ]
        for row, (index,) in enumerate(coords.tolist()):
            rows[index] = int(kinds[row]), places[row], int(offsets[row]), int(lengths[row]), inlined.get(row)
    native = rows[2][1]
    assert rows == {
        0: (icefs.ChunkType.inline, "", 0, 1, b"x"),
        2: (icefs.ChunkType.native, native, 0, 12, None),
        4: (icefs.ChunkType.virtual, "s3://bucket/key", 3, 7, None),
    } | ({1: (icefs.ChunkType.inline, "", 0, 1, b"y")} if changed else {})
    assert any(key == f"chunks/{native}" for key in (each.key for each in repo.storage.iter_objects()))
    for path, error in (("/", icefs.InvalidInputError), ("nothing", icefs.NodeNotFoundError)):
        with pytest.raises(error):  # Divergence 75
            store.array_chunk_iterator(path)


def test_upgrading():
    old = icefs.Repository.create(icefs.in_memory_storage(), spec_version=1)
    with old.transaction("main", message="base") as store:
        sync(store.set("zarr.json", cpu.Buffer.from_bytes(GROUP)))
    tried = icefs.upgrade_icechunk_repository(old, dry_run=True)
    assert (tried.spec_version, old.spec_version) == (1, 1)
    new = icefs.upgrade_icechunk_repository(old, dry_run=False, prefetch_concurrency=3)
    assert new.spec_version == 2
    assert [info.message for info in new.ancestry(branch="main")] == ["base", "Repository initialized"]
    with pytest.raises(RuntimeError, match="was invalidated by upgrade"):
        old.list_branches()
    with pytest.raises(icefs.SessionStateError) as caught:
        icefs.upgrade_icechunk_repository(new, dry_run=False)
    assert caught.value.kind == icefs.ErrorKind.INVALID_REPOSITORY_MIGRATION


def test_what_is_logged_is_chosen(monkeypatch):
    ours, other = logging.getLogger("icefs"), logging.getLogger("tests.some.library")
    before = ours.level, other.level
    try:
        icefs.set_logs_filter("debug")
        assert ours.level == logging.DEBUG
        icefs.set_logs_filter("error,tests::some::library=trace")
        assert (ours.level, other.level) == (logging.ERROR, logging.DEBUG)
        with pytest.warns(UserWarning, match="loud"):
            icefs.set_logs_filter("info,icefs=loud")  # what can be understood of it counts
        assert ours.level == logging.INFO
        monkeypatch.setenv("ICECHUNK_LOG", "icechunk=info")
        icefs.initialize_logs()
        assert ours.level == logging.INFO
        icefs.set_logs_filter("off")
        assert not ours.isEnabledFor(logging.CRITICAL)
        monkeypatch.delenv("ICECHUNK_LOG")
        icefs.initialize_logs()
        assert ours.level == other.level == logging.NOTSET  # Python's own: warnings and errors
        ours.setLevel(logging.ERROR)
        icefs.initialize_logs()
        assert ours.level == logging.ERROR  # a program's own choice stays
        icefs.shutdown_telemetry()
    finally:
        ours.setLevel(before[0])
        other.setLevel(before[1])


def test_versions_are_told(capsys):
    icefs.print_debug_info()
    out = capsys.readouterr().out
    assert f"icefs:  {icefs.__version__}" in out
    assert "zarr:" in out
    assert icefs.user_agent() == f"icefs/{icefs.__version__}"
