"""Whatever answers in a store's place: the right bytes come, or an error that says what happened.

Each case is an answer (status, body, headers) to each operation on each kind of storage. The store itself is asked what
is true. An answer that is right in every way but for its bytes cannot be told from the store's; `is_credible` says
which those are, by what the protocol promises and not by what icefs looks at. `ICEFS_SOAK=1` runs all of them.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue
from typing import Any, Final

import pytest

from icefs.errors import (
    AccessDeniedError,
    IcefsError,
    InvalidObjectSizeError,
    ObjectNotFoundError,
    PreconditionFailedError,
    ThrottledError,
)
from icefs.storage.base import Storage
from icefs.storage.http import HttpStorage
from icefs.storage.http_client import HttpOptions
from icefs.storage.retry import RetryPolicy
from icefs.storage.s3.deletion import Deletion
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.store import S3Storage
from tests.support.bent_store import BODIES, HEADERS, NO_SUCH_KEY, STATUSES, Answer, Asked, Bend, BentStore, Stored
from tests.support.soak import SOAK, share_of

SAMPLE: Final = 300
RARE_SAMPLE: Final = 100
"""How many answers an operation meets in an ordinary run; fewer where botocore sends the requests."""

DATA: Final = random.Random(7).randbytes(3000)
KEYS: Final = S3Credentials("AN-ID", "a-secret-to-keep", "a-token-to-keep")
ONCE: Final = RetryPolicy(max_tries=1, first_contact_tries=1, initial_backoff_s=0.0, max_backoff_s=0.0)
STARTED: Final = {"bucket/pre/a": DATA, "bucket/pre/b": b"bb", "bucket/pre/d/c": b"c", "bucket/another/x": b"x"}
MULTIPART: Final = random.Random(8).randbytes(6 << 20)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", logger="icefs")


type Check = Callable[[BentStore, object], bool]
"""Tells whether what an operation returned is true."""


@dataclass(frozen=True)
class Operation:
    """What is done to a storage.

    Attributes:
        run: Does it.
        is_true: Tells whether its answer is true.
        writes: Whether it changes the store.
    """

    run: Callable[[Storage], object]
    is_true: Check
    writes: bool = False


def known(storage: Storage, key: str) -> Any:
    """Returns a version that was found before the answers were bent."""
    return storage.versions[key]  # type: ignore[attr-defined]


def begun(storage: Storage) -> object:
    answers: Queue[bytes | None] = Queue()
    if not storage.start_read("a", 1000, 1010, answers.put):
        return None
    data = answers.get(timeout=20)
    return None if data is None else bytes(data)


def holds(key: str, data: bytes | None) -> Check:
    def check(store: BentStore, _: object) -> bool:
        found = store.objects.get(key)
        return (None if found is None else found.data) == data

    return check


def deletion(storage: Storage) -> Deletion:
    assert isinstance(storage, S3Storage)
    return Deletion(storage.access.run, {"Bucket": storage.bucket})


READING: Final = {
    "get": Operation(lambda storage: storage.get("a").data, lambda _, found: found == DATA),
    "get a range": Operation(
        lambda storage: storage.get("a", start=1000, end=1010).data, lambda _, found: found == DATA[1000:1010]
    ),
    "get the first bytes": Operation(
        lambda storage: storage.get("a", start=0, end=56).data, lambda _, found: found == DATA[:56]
    ),
    "get the rest": Operation(lambda storage: storage.get("a", start=2990).data, lambda _, found: found == DATA[2990:]),
    "get if changed": Operation(
        lambda storage: storage.get_if_changed("a", '"other"'),
        lambda _, found: found is not None and found.data == DATA,
    ),
    "head": Operation(lambda storage: storage.head("a").size_bytes, lambda _, found: found == len(DATA)),
    "read a foreign range": Operation(
        lambda storage: storage.read_range("a", 1000, 1010),  # type: ignore[attr-defined]
        lambda _, found: found == DATA[1000:1010],
    ),
    "read a foreign range of a version": Operation(
        lambda storage: storage.read_range("a", 1000, 1010, if_match_etag=Stored(DATA).etag),  # type: ignore[attr-defined]
        lambda _, found: found == DATA[1000:1010],
    ),
}
LISTING: Final = {
    "list": Operation(
        lambda storage: sorted(info.key for info in storage.iter_objects()),
        lambda _, found: found == ["a", "b", "d/c"],
    ),
    "list a directory": Operation(
        lambda storage: sorted(storage.list_dir()), lambda _, found: found == ["a", "b", "d/"]
    ),
    "begin to read": Operation(begun, lambda _, found: found in (None, DATA[1000:1010])),
}
WRITING: Final = {
    "put": Operation(lambda storage: storage.put("new", b"data"), holds("bucket/pre/new", b"data"), True),
    "create": Operation(
        lambda storage: storage.put("new", b"data", create_only=True), holds("bucket/pre/new", b"data"), True
    ),
    "update": Operation(
        lambda storage: storage.put("a", b"data", if_match=known(storage, "a")), holds("bucket/pre/a", b"data"), True
    ),
    "copy": Operation(
        lambda storage: storage.copy("a", "new", if_match=known(storage, "a")), holds("bucket/pre/new", DATA), True
    ),
    "delete one": Operation(
        lambda storage: [name[4:] for name in deletion(storage).delete_singly(["pre/b"])],
        lambda store, left: left == ["b"] or "bucket/pre/b" not in store.objects,
        True,
    ),
    "delete many": Operation(
        lambda storage: storage.delete(["a", "b"]),
        lambda store, left: {key for key in "ab" if f"bucket/pre/{key}" in store.objects} <= set(left),  # type: ignore[call-overload]
        True,
    ),
    "put in parts": Operation(lambda storage: storage.put("new", MULTIPART), holds("bucket/pre/new", MULTIPART), True),
}
RARE: Final = ("copy", "delete one", "delete many", "put in parts")
S3_OPERATIONS: Final = READING | LISTING | WRITING
WEB_OPERATIONS: Final = READING
CASES: Final = [
    *(("signed", name) for name in S3_OPERATIONS),
    *(("anonymous", name) for name in READING | LISTING),
    *(("web", name) for name in WEB_OPERATIONS),
]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[BentStore]:
    """Another host, to which no request ever goes."""
    with BentStore() as store:
        yield store


@pytest.fixture(scope="module")
def store(elsewhere: BentStore) -> Iterator[BentStore]:
    with BentStore(elsewhere.url.replace("127.0.0.1", "localhost")) as store:
        yield store


def opened(kind: str, store: BentStore) -> Storage:
    store.set_bend(None)
    store.objects = {key: Stored(data) for key, data in STARTED.items()}
    storage: Any
    if kind == "web":
        options = HttpOptions(headers=(("X-Api-Key", "a-secret-to-keep"),), retry=ONCE)
        storage = HttpStorage(f"{store.url}/bucket/pre", options)
    else:
        storage = S3Storage(
            "bucket",
            "pre",
            S3Options(
                endpoint_url=store.url,
                region="us-east-1",
                credentials=KEYS if kind == "signed" else None,
                anonymous=kind == "anonymous",
                retry=ONCE,
                multipart_threshold_bytes=1 << 20,
                multipart_part_bytes=5 << 20,
            ),
        )
    storage.versions = {"a": storage.head("a").version}
    return storage


def bends(operation: str, *, writes: bool) -> Iterator[Bend]:
    """Yields the answers that an operation meets."""
    done = (False, True) if writes else (False,)
    times = (None, 1) if writes else (None,)
    if SOAK:
        everything = list(itertools.product((None, *STATUSES), BODIES, HEADERS, done, times))
        yield from (Bend(*each) for each in share_of(everything))
        return
    chosen = [Bend(status, body) for status in STATUSES for body in ("page", "no such key", "empty")]
    chosen += [Bend(status, "page", "elsewhere") for status in STATUSES]
    chosen += [Bend(None, body, header) for body in BODIES for header in HEADERS]
    draw = random.Random(operation)
    sizes = ((None, *STATUSES), BODIES, HEADERS, done, times)
    chosen += [Bend(*(draw.choice(choices) for choices in sizes)) for _ in range(200)]  # type: ignore[arg-type]
    yield from (Bend(404, body, "no length") for body in BODIES)  # nothing tells how much more comes
    yield from draw.sample(chosen, RARE_SAMPLE if operation in RARE else SAMPLE)


def is_credible(asked: Asked, answer: Answer, bend: Bend) -> bool:
    """Tells whether an answer that is not true is right in every way that the protocol knows."""
    headers, body = answer.headers, answer.arrived
    length = headers.get("Content-Length", "none")
    is_whole = length in ("none", str(len(body))) and headers.get("Transfer-Encoding") != "chunked, cut"
    kind = headers.get("Content-Type", "")
    is_document = "html" in kind or body.lstrip()[:1] == b"<"
    if asked.method == "HEAD":
        return answer.status == 200 and "html" not in kind
    if asked.method == "DELETE" and (answer.status == 204 or body == NO_SUCH_KEY):
        return True  # the store's own words, whatever is said of their length
    if (asked.method == "POST" or "x-amz-copy-source" in asked.headers) and bend.body == "right":
        return answer.status < 300  # the document is whole, whatever is said of its length
    if not is_whole:
        return False
    if asked.method == "GET":
        span = asked.headers.get("range")
        if answer.status == 206 and span is not None:
            first, _, last = span.removeprefix("bytes=").partition("-")
            told, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if last:
                return told == f"{first}-{last}" and len(body) == int(last) - int(first) + 1
            return told == f"{first}-{int(total) - 1}" and len(body) == int(total) - int(first)
        if answer.status == 304 and "if-none-match" in asked.headers:
            return headers.get("ETag", "") in ("", asked.headers["if-none-match"])
        if answer.status != 200 or is_document or "Content-Encoding" in headers:
            return False
        # All of it was asked for, and comes; or exactly as much as was asked for from the first byte on.
        return span is None or span == f"bytes=0-{len(body) - 1}"
    if asked.method == "PUT" and "x-amz-copy-source" not in asked.headers:
        return answer.status == 200 and not body.strip() and "ETag" in headers
    # Copies, deletions, and the ends of uploads: an answer that is the right one.
    if asked.method == "DELETE":
        return answer.status in (200, 404) and not body
    return answer.status < 300 and bend.body == "right"


def is_right_error(error: IcefsError, store: BentStore, bend: Bend, kind: str) -> bool:
    """Tells whether an error says what happened: nothing is said to be missing, changed or cut that is not."""
    statuses = {answer.status for _, answer in store.answered}
    if isinstance(error, ObjectNotFoundError):
        if kind == "web":
            return bool(statuses & {404, 410})
        return store.answered[-1][1].says_missing
    if isinstance(error, PreconditionFailedError):
        # Only if what was read afterwards claims another version, or the first try may have come through.
        told = {answer.status for asked, answer in store.answered if asked.method == "HEAD"}
        return bool(error.facts.get("maybe_written")) or bend.headers == "other etag" or 404 in told or bend.is_done
    if isinstance(error, AccessDeniedError):
        return bool(statuses & {401, 403, 407}) or (kind == "web" and bend.headers == "elsewhere")
    if isinstance(error, ThrottledError):
        return bool(statuses & {429, 503})
    if isinstance(error, InvalidObjectSizeError):
        return any(answer.status in (200, 206) or "Content-Range" in answer.headers for _, answer in store.answered)
    return True


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_any_answer_gives_the_right_bytes_or_an_error(
    store: BentStore, elsewhere: BentStore, kind: str, name: str
) -> None:
    operation = S3_OPERATIONS[name]
    storage = opened(kind, store)
    wrong = []
    for bend in bends(name, writes=operation.writes):
        if bend.headers == "chunked cut" and bend.body == "empty":
            continue
        store.objects = {key: Stored(data) for key, data in STARTED.items()}
        if name == "begin to read":
            storage.close()
            storage = opened(kind, store)
            storage.get("b")
        store.set_bend(bend)
        try:
            result = operation.run(storage)
        except IcefsError as error:
            if not is_right_error(error, store, bend, kind):
                wrong.append((bend, repr(error), [answer for _, answer in store.answered]))
        except Exception as error:
            wrong.append((bend, repr(error), [answer for _, answer in store.answered]))
        else:
            if not operation.is_true(store, result) and not any(
                is_credible(asked, answer, bend) for asked, answer in store.answered
            ):
                wrong.append((bend, result, [answer for _, answer in store.answered]))
    storage.close()
    assert elsewhere.seen == []
    assert not wrong, "\n".join(
        [f"{len(wrong)} wrong:", *(str(each)[:900] for each in wrong[:: max(1, len(wrong) // 3)])]
    )
