"""Blobs of a container are written: each by one request or in blocks, on a condition or none, or copied.

Source: REST API of Azure Blob Storage, "Put Blob", "Put Block List", "Copy Blob".
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from azure.core import MatchConditions
from azure.storage.blob import BlobBlock, BlobClient, ContainerClient, StandardBlobTier

from icefs.errors import InvalidInputError, StorageError, UnreachableError
from icefs.storage.azure.access import MAX_SINGLE_PUT_BYTES, ContainerAccess
from icefs.storage.azure.object_reader import Conditions, ObjectReader, if_match, quoted, version_of
from icefs.storage.base import Version
from icefs.storage.publishing import WRITE_ID, OnFailure, check_present, is_written_by, publish

_BLOCK_THREADS: Final = 4
_MAX_BLOCKS: Final = 50_000
_ABSENT: Final[Conditions] = {"match_condition": MatchConditions.IfMissing}

type ReadPart = Callable[[int, int], bytes]


class ObjectWriter:
    """Writes blobs of one container by their full names. Safe for threads."""

    def __init__(self, access: ContainerAccess, reader: ObjectReader, new_write_id: Callable[[], str]) -> None:
        """Takes the way to the container, what looks up blobs there, and what makes write-ids."""
        self._access = access
        self._reader = reader
        self._new_write_id = new_write_id

    def put(self, name: str, data: bytes | memoryview, tier: str | None) -> Version:
        """Writes a blob, whatever is there; raises StorageError.

        Args:
            name: Its full name.
            data: The bytes.
            tier: The access tier that it gets; None for the account's.
        """
        return self._send(name, data, {}, None, tier, None)

    def put_parts(self, name: str, size_bytes: int, read: ReadPart, tier: str | None) -> Version:
        """Writes a large blob, whatever is there; each block is read when it is sent. Raises StorageError."""
        return self._send_blocks(name, size_bytes, read, {}, self._new_write_id(), tier, None)

    def create(self, name: str, data: bytes | memoryview, tier: str | None) -> Version:
        """Writes a blob where none is; raises as `replace`."""
        if self._access.options.settings.conditional_create is False:
            self._check_present(name, None)
            return self._publish(name, data, {}, tier)
        return self._publish(name, data, _ABSENT, tier)

    def replace(self, name: str, data: bytes | memoryview, expected: Version, tier: str | None) -> Version:
        """Writes a blob in the place of one version of it.

        Raises:
            PreconditionFailedError: another version is there, or none.
            StorageError: the service does not answer; `facts["maybe_written"]` tells whether the blob may be there.
        """
        if self._access.options.settings.conditional_update is False:
            self._check_present(name, expected)
            return self._publish(name, data, {}, tier)
        return self._publish(name, data, if_match(expected), tier)

    def _check_present(self, name: str, expected: Version | None) -> None:
        check_present(lambda: self._reader.find(name), expected, place=self._access.url(name), key=name)

    def _publish(self, name: str, data: bytes | memoryview, condition: Conditions, tier: str | None) -> Version:
        write_id = None if self._access.options.settings.metadata is False else self._new_write_id()

        def send(doubt: OnFailure) -> Version:
            return self._send(name, data, condition, write_id, tier, doubt)

        place, is_own = self._access.url(name), is_written_by(write_id)
        return publish(send, lambda: self._reader.find(name), is_own=is_own, place=place, key=name)

    def _send(
        self,
        name: str,
        data: bytes | memoryview,
        condition: Conditions,
        write_id: str | None,
        tier: str | None,
        on_failure: OnFailure | None,
    ) -> Version:
        view = memoryview(data).cast("B")
        if len(view) >= min(self._access.options.multipart_threshold_bytes, MAX_SINGLE_PUT_BYTES):

            def part(start: int, end: int) -> bytes:
                return bytes(view[start:end])

            return self._send_blocks(name, len(view), part, condition, write_id, tier, on_failure)
        arguments = {**condition, **self._facts(write_id, tier)}
        body = bytes(data)

        def once(blob: BlobClient) -> Version:
            answer = blob.upload_blob(body, length=len(body), overwrite=True, max_concurrency=1, **arguments)
            return version_of(answer.get("etag"))

        return self._access.run_blob("write", name, once, on_failure=on_failure)

    def _facts(self, write_id: str | None, tier: str | None) -> dict[str, Any]:
        """Returns what the object bears besides its bytes, as arguments of the library's methods."""
        facts: dict[str, Any] = {} if tier is None else {"standard_blob_tier": _tier(tier)}
        if write_id is not None and self._access.options.settings.metadata is not False:
            facts["metadata"] = {WRITE_ID: write_id}
        return facts

    def _send_blocks(
        self,
        name: str,
        size_bytes: int,
        read: ReadPart,
        condition: Conditions,
        write_id: str | None,
        tier: str | None,
        on_failure: OnFailure | None,
    ) -> Version:
        block_bytes = max(self._access.options.multipart_part_bytes, -(-size_bytes // _MAX_BLOCKS))
        # Of another writer's blocks under the same name, none may be taken for one of these.
        upload = self._new_write_id()
        blocks = [f"{upload}-{number:05}" for number in range(-(-size_bytes // block_bytes))]

        def stage(number: int) -> None:
            body = read(number * block_bytes, min((number + 1) * block_bytes, size_bytes))

            def once(blob: BlobClient) -> None:
                blob.stage_block(blocks[number], body, length=len(body))

            self._access.run_blob("write", name, once)

        with ThreadPoolExecutor(_BLOCK_THREADS, thread_name_prefix="icefs-block") as pool:
            for _ in pool.map(stage, range(len(blocks))):
                pass
        arguments = {**condition, **self._facts(write_id, tier)}

        def commit(blob: BlobClient) -> Version:
            answer = blob.commit_block_list([BlobBlock(block) for block in blocks], **arguments)
            return version_of(answer.get("etag"))

        lost: list[StorageError] = []

        def failed(error: StorageError) -> None:
            lost.append(error)
            if on_failure is not None:
                on_failure(error)

        try:
            return self._access.run_blob("write", name, commit, on_failure=failed)
        except StorageError as error:
            # Blocks that a lost answer made the blob of are not there any more.
            if not lost or write_id is None or error.facts.get("code") != "InvalidBlockList":
                raise
            present = self._reader.find(name)
            if present.write_id != write_id:
                raise
            return present.version

    def copy(self, from_name: str, to_name: str, expected: Version | None, tier: str | None) -> None:
        """Copies a blob, or just one version of it; raises as `replace`, and ObjectNotFoundError."""
        if expected is not None and self._access.options.settings.conditional_update is False:
            self._check_present(from_name, expected)
            expected = None
        arguments: dict[str, Any] = {} if tier is None else {"standard_blob_tier": _tier(tier)}
        if expected is not None:
            arguments["source_etag"] = quoted(expected)
            arguments["source_match_condition"] = MatchConditions.IfNotModified

        def once(client: ContainerClient) -> str:
            # With the signature in it, where requests bear one: the service reads the source in our name.
            source = client.get_blob_client(from_name).url
            answer = client.get_blob_client(to_name).start_copy_from_url(source, **arguments)
            return str(answer.get("copy_status"))

        status, polls = self._access.run("copy", from_name, once), 0
        where = self._access.url(from_name)
        while status == "pending":
            polls += 1
            waiting = UnreachableError(f"the copy of {where} is still under way")
            self._access.retrier.pause(waiting, polls, polls + 1, verb="copy", name=where)
            status = self._reader.head(to_name, {}).copy_status or "lost"
        if status != "success":
            raise StorageError(f"cannot copy {where}: the service says that the copy is {status}", code=status)


def tier_of(name: str) -> StandardBlobTier | None:
    """Returns the access tier of a name, whatever its letters are; None if the service has none of it."""
    return next((tier for tier in StandardBlobTier if tier.value.lower() == name.lower()), None)


def _tier(name: str) -> StandardBlobTier:
    tier = tier_of(name)
    if tier is not None:
        return tier
    known = ", ".join(tier.value for tier in StandardBlobTier)
    raise InvalidInputError(f"{name!r} is no access tier of Azure", hint=f"they are {known}")
