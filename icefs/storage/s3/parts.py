"""Large objects are sent to an S3 service in parts."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Protocol

from icefs.errors import StorageError
from icefs.storage.s3.answers import told
from icefs.storage.s3.options import S3Client

_PART_THREADS: Final = 4
_MAX_PARTS: Final = 10_000

type OnFailure = Callable[[StorageError], None]


class Run(Protocol):
    """Sends requests about an object until there is an answer."""

    def __call__[T](
        self,
        verb: str,
        name: str,
        operation: Callable[[S3Client], T],
        *,
        on_failure: OnFailure | None = None,
        is_conditional: bool = False,
    ) -> T:
        """Does `operation` with a client of boto3."""
        ...


def send_parts(
    run: Run,
    target: dict[str, Any],
    size_bytes: int,
    read: Callable[[int, int], bytes],
    *,
    part_bytes: int,
    begun_with: Mapping[str, Any],
    condition: Mapping[str, Any],
    checksum_algorithm: str | None,
    on_failure: OnFailure | None,
) -> str:
    """Sends an object in parts; returns its entity tag.

    Args:
        run: Sends the requests.
        target: Bucket and key, as arguments of the client's methods.
        size_bytes: How large the object is.
        read: Returns a range of it.
        part_bytes: How large parts are, unless there would be too many.
        begun_with: What the object is to have besides its bytes: metadata, a class.
        condition: What the end of the upload depends on.
        checksum_algorithm: Which checksum is sent with each part; None for none.
        on_failure: Is called at each passing failure of the request that ends the upload.

    Raises:
        StorageError: nothing was written; or, if `facts["was_lost"]`, an answer to the end of the upload was lost, and
            the object may be there.
    """
    name = target["Key"]
    summed = {} if checksum_algorithm is None else {"ChecksumAlgorithm": checksum_algorithm}
    begun = {**target, **begun_with, **summed}
    upload = {
        **target,
        "UploadId": run("write", name, lambda client: told(client.create_multipart_upload(**begun), "UploadId")),
    }
    part_bytes = max(part_bytes, -(-size_bytes // _MAX_PARTS))

    def send(number: int) -> dict[str, Any]:
        body = read((number - 1) * part_bytes, min(number * part_bytes, size_bytes))
        part = {**upload, "PartNumber": number, "Body": body, **summed}

        def upload_part(client: S3Client) -> dict[str, Any]:
            answer = client.upload_part(**part)
            done = {"PartNumber": number, "ETag": told(answer, "ETag")}
            checksum = answer.get(f"Checksum{checksum_algorithm}")
            return done if checksum is None else {**done, f"Checksum{checksum_algorithm}": checksum}

        return run("write", name, upload_part)

    was_lost = False

    def failed(error: StorageError) -> None:
        nonlocal was_lost
        was_lost = True
        if on_failure is not None:
            on_failure(error)

    try:
        with ThreadPoolExecutor(_PART_THREADS, thread_name_prefix="icefs-part") as pool:
            parts = list(pool.map(send, range(1, -(-size_bytes // part_bytes) + 1)))
        end = {**upload, "MultipartUpload": {"Parts": parts}, **condition}
        tag: str = run(
            "write",
            name,
            lambda client: told(client.complete_multipart_upload(**end), "ETag"),
            on_failure=failed,
            is_conditional=bool(condition),
        )
    except StorageError as error:
        error.facts["was_lost"] = was_lost
        # What may be left of it is no object; a bucket's lifecycle rule removes it.
        with suppress(StorageError):
            run("write", name, lambda client: client.abort_multipart_upload(**upload))
        raise
    return tag
