"""A collection of the official library that begins before a commit of icefs, and ends after it.

It looks what refs need, writes its entry into `repo`, and only then lists what there is and deletes. Where the commit
comes after the entry, icefs copies the chunks of its session out of reach. Where it comes before the entry, the
collection writes its entry on top of the commit and does not look again what refs need: it takes the chunks of that
commit if its cutoff is younger than they are. Nobody but the official library can close that window; a cutoff that is
older than any open session, which the help of `gc` asks for, takes nothing.
"""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import icechunk
import pytest

from icefs.engine.upkeep.fsck import fsck
from icefs.engine.write.repository import WritableRepository
from icefs.errors import ObjectNotFoundError
from icefs.format.config.values import RepositoryConfig
from icefs.storage.s3.store import S3Storage
from tests.conformance.official import GROUP, array_json
from tests.support.fault_proxy import FaultProxy, Plan
from tests.support.s3_server import SeaweedServer

icechunk.set_logs_filter("off")

COUNT = 4
# The request of the collection that is held while icefs commits. Its order: what is there of snapshots, what refs
# need of `repo` and manifests, its entry into `repo`, then what is there of each other kind, and the deletions.
HELD = {
    "what refs need is known": {"method": "PUT", "path": "overwritten"},
    "its entry is being written": {"method": "PUT", "path": "/repo?"},
    "logs are being listed": {"method": "GET", "path": "transactions%2F"},
    "chunks are being listed": {"method": "GET", "path": "chunks%2F"},
    "chunks are being deleted": {"method": "POST", "path": "delete"},
}
BEFORE_ITS_ENTRY = ("what refs need is known", "its entry is being written")


@pytest.fixture
def repository(s3_storage: S3Storage) -> Iterator[WritableRepository]:
    config = RepositoryConfig(inline_chunk_threshold_bytes=0)
    made = WritableRepository.create(s3_storage, config)
    session = made.writable_session("main")
    session.nodes.put("/", GROUP)
    session.nodes.put("/a", array_json((COUNT,), (1,)))
    session.commit("made")
    yield made
    made.close()


@pytest.fixture
def collect(s3_server: SeaweedServer, s3_prefix: str, proxy: FaultProxy) -> Callable[[datetime], None]:
    keys = s3_server.environment()

    def run(cutoff: datetime) -> None:
        storage = icechunk.s3_storage(
            bucket="icefs-tests",
            prefix=s3_prefix,
            endpoint_url=proxy.endpoint_url,
            region="us-east-1",
            allow_http=True,
            force_path_style=True,
            access_key_id=keys["AWS_ACCESS_KEY_ID"],
            secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )
        icechunk.Repository.open(storage).garbage_collect(cutoff)

    return run


def unneeded(storage: S3Storage) -> None:
    """Stores a chunk that nothing needs, so that there is something to delete in any case."""
    storage.put("chunks/00000000000000000000", b"nothing")


def wait_until_held(proxy: FaultProxy, plan: Plan, thread: threading.Thread) -> None:
    deadline = time.monotonic() + 60
    while not plan.fired:
        assert thread.is_alive(), "the collection has ended"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("is_older", [True, False], ids=["an older cutoff", "a younger cutoff"])
@pytest.mark.parametrize("held", HELD)
def test_a_commit_while_an_official_collection_is_under_way_can_be_read(
    s3_storage: S3Storage,
    repository: WritableRepository,
    collect: Callable[[datetime], None],
    proxy: FaultProxy,
    held: str,
    is_older: bool,
) -> None:
    unneeded(s3_storage)
    time.sleep(1.1)
    before = datetime.now(UTC)
    time.sleep(1.1)
    session = repository.writable_session("main")
    for number in range(COUNT):
        session.chunks.set("/a", (number,), bytes([number + 1]))
    time.sleep(1.1)  # the store has times in seconds
    cutoff = before if is_older else datetime.now(UTC)
    time.sleep(1.1)
    plan = proxy.plan("wait", **HELD[held], times=None)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            collect(cutoff)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until_held(proxy, plan, thread)
        made = session.commit("theirs")
    finally:
        proxy.go_on()
        thread.join()
    assert failed == []
    fresh = WritableRepository.open(s3_storage)
    tip = fresh.readonly_session("main")
    assert str(tip.snapshot_id) == str(made)
    refs = [tip.chunk_ref("/a", (number,)) for number in range(COUNT)]
    report = fsck(s3_storage)
    if not is_older and held in BEFORE_ITS_ENTRY:
        with pytest.raises(ObjectNotFoundError):
            tip.read_chunk(refs[0])
        assert report.status == "damaged"
        assert [(one.kind, one.key.partition("/")[0]) for one in report.findings] == [("missing", "chunks")] * COUNT
        return
    assert [bytes(tip.read_chunk(ref)) for ref in refs] == [bytes([number + 1]) for number in range(COUNT)]
    assert report.status == "clean"
