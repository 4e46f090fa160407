"""Objects of an S3 bucket are deleted: in bulk where the service can."""

from collections.abc import Iterable
from functools import partial
from itertools import batched
from typing import Any, Final

from icefs.errors import ObjectNotFoundError, StorageError, ThrottledError
from icefs.storage.answers import AnswerError
from icefs.storage.s3.answers import check_deleted
from icefs.storage.s3.errors import LACKING, is_passing
from icefs.storage.s3.options import S3Client
from icefs.storage.s3.parts import Run
from icefs.words import plural

_BATCH: Final = 1000


class Deletion:
    """Deletes objects of one bucket."""

    def __init__(self, run: Run, arguments: dict[str, Any], checksum_algorithm: str | None = None) -> None:
        """Takes what sends requests, the arguments that all of them have, and the checksum of their bodies."""
        self._run = run
        self._summed = {} if checksum_algorithm is None else {"ChecksumAlgorithm": checksum_algorithm}
        self._arguments = arguments

    def delete(self, names: Iterable[str]) -> list[str]:
        """Deletes objects by their full names; returns the names of those that could not be deleted."""
        singly: list[str] = []
        plain: list[str] = []
        for name in names:
            # What XML cannot hold can only be named in a request's path.
            (plain if name.isprintable() else singly).append(name)
        failed = self.delete_singly(singly)
        for batch in batched(plain, _BATCH):
            failed += self._delete_batch(list(batch))
        return failed

    def _delete_batch(self, names: list[str]) -> list[str]:
        remaining, lasting = names, list[str]()

        def once(client: S3Client) -> None:
            nonlocal remaining
            # Not quiet: only an answer that names each object proves that it is the store's.
            wanted = {"Objects": [{"Key": name} for name in remaining], "Quiet": False}
            answer = client.delete_objects(**self._arguments, **self._summed, Delete=wanted)
            codes = {item.get("Key", ""): item.get("Code", "") for item in answer.get("Errors", ())}
            gone = {item.get("Key", "") for item in answer.get("Deleted", ())}
            unnamed = [name for name in remaining if name not in codes and name not in gone]
            if len(unnamed) == len(remaining):
                raise AnswerError("without naming what was deleted")
            passing = [name for name in remaining if is_passing(codes.get(name, ""))]
            lasting.extend(name for name, code in codes.items() if code != "NoSuchKey" and not is_passing(code))
            remaining = passing + unnamed
            if remaining:
                raise ThrottledError(f"{plural(len(remaining), 'object')} could not be deleted yet", some=True)

        try:
            self._run("delete from", names[0].rpartition("/")[0], once)
        except StorageError as error:
            if error.facts.get("code") in (*LACKING, "MissingContentMD5"):
                return self.delete_singly(names)  # Google's and some older services.
            if not error.facts.get("some"):
                raise
            return lasting + remaining
        return lasting

    def delete_singly(self, names: list[str]) -> list[str]:
        """Deletes objects one after the other; returns the names of those that could not be deleted."""
        failed = []
        for name in names:
            try:
                self._run("delete", name, partial(self._delete_one, name))
            except ObjectNotFoundError:
                continue
            except StorageError:
                failed.append(name)
        return failed

    def _delete_one(self, name: str, client: S3Client) -> None:
        check_deleted(client.delete_object(**self._arguments, Key=name))
