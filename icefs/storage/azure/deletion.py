"""Blobs of a container are deleted: 256 by one request where the service can."""

from collections.abc import Iterable
from itertools import batched
from typing import Final

from azure.storage.blob import BlobClient, ContainerClient

from icefs.errors import ObjectNotFoundError, StorageError
from icefs.storage.azure.access import ContainerAccess

_BATCH: Final = 256
# Statuses of a batch as a whole that say that there are no batches here, or none with such credentials.
_LACKING: Final = (400, 403, 404, 405, 501)


class Deletion:
    """Deletes blobs of one container. Safe for threads."""

    def __init__(self, access: ContainerAccess) -> None:
        """Takes the way to the container."""
        self._access = access

    def delete(self, names: Iterable[str]) -> list[str]:
        """Deletes blobs by their full names; returns the names of those that could not be deleted."""
        failed: list[str] = []
        for batch in batched(names, _BATCH):
            if len(batch) == 1 or not self._delete_batch(batch):
                failed += self._delete_singly(batch)
        return failed

    def _delete_batch(self, names: tuple[str, ...]) -> bool:
        """Deletes blobs by one request; tells whether each is gone.

        The library does not say which part of the answer belongs to which blob. So where one part tells of a failure,
        each blob is deleted by itself.
        """

        def once(client: ContainerClient) -> bool:
            answers = [part.status_code for part in client.delete_blobs(*names, raise_on_any_failure=False)]
            return len(answers) == len(names) and set(answers) <= {200, 202, 404}

        try:
            return self._access.run("delete from", names[0].rpartition("/")[0], once)
        except StorageError as error:
            if error.facts.get("status") in _LACKING:
                return False
            raise

    def _delete_singly(self, names: Iterable[str]) -> list[str]:
        failed = []
        for name in names:
            try:
                self._access.run_blob("delete", name, _delete_one)
            except ObjectNotFoundError:
                continue
            except StorageError:
                failed.append(name)
        return failed


def _delete_one(blob: BlobClient) -> None:
    blob.delete_blob()
