"""Labels of the program that makes requests; owners of buckets find them in their access logs."""

import re
from dataclasses import dataclass, fields, replace
from typing import Final

from icefs.storage.base import Storage

_PRODUCT: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?")
_LABEL: Final = re.compile(r"[\x20-\x7e]*")
_FORBIDDEN: Final = frozenset('()\\;="')
_MAX_BYTES: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Labels for the User-Agent header of every request to S3 or to a web server.

    Attributes:
        client: Which program makes the requests: `name` or `name/version`.
        workload: The purpose: a job, a pipeline.
        principal: On whose behalf, where one program works for many.
    """

    client: str | None = None
    workload: str | None = None
    principal: str | None = None

    def __post_init__(self) -> None:
        if self.client is not None and not _PRODUCT.fullmatch(self.client):
            raise ValueError(f"the attribution's client is a name, or name/version, and not {self.client!r}")
        for each in fields(self):
            label = getattr(self, each.name)
            if label is None:
                continue
            if len(label.encode()) > _MAX_BYTES:
                raise ValueError(f"the attribution's {each.name} is longer than {_MAX_BYTES} bytes")
            if not _LABEL.fullmatch(label) or not _FORBIDDEN.isdisjoint(label):
                raise ValueError(
                    f"the attribution's {each.name} is printable ASCII without any of {' '.join(sorted(_FORBIDDEN))}, "
                    f"and not {label!r}"
                )

    def user_agent(self) -> str:
        """Returns the labels as they are added to the User-Agent header."""
        labels = [f"{name}={getattr(self, name)}" for name in ("workload", "principal") if getattr(self, name)]
        return " ".join(part for part in (self.client, f"({'; '.join(labels)})" if labels else "") if part)


def attributed(storage: Storage, attribution: Attribution | None) -> Storage:
    """Returns the same storage, with labels on the requests to it, where there are requests."""
    agent = "" if attribution is None else attribution.user_agent()
    if not agent:
        return storage
    # Lazy: loading urllib3 takes longer than opening a local repository.
    from icefs.storage.http import HttpStorage
    from icefs.storage.s3.store import S3Storage

    if isinstance(storage, S3Storage):
        return S3Storage(storage.bucket, storage.prefix, replace(storage.options, user_agent=agent))
    if isinstance(storage, HttpStorage):
        return HttpStorage(storage.url, replace(storage.options, user_agent=agent))
    if storage.url.startswith("az://"):
        from icefs.storage.azure.store import AzureStorage  # lazy: it is an extra, which is there for such a storage

        if isinstance(storage, AzureStorage):
            return AzureStorage(storage.container, storage.prefix, replace(storage.options, user_agent=agent))
    if storage.url.startswith("gs://"):
        from icefs.storage.gcs.store import GcsStorage  # lazy, as above

        if isinstance(storage, GcsStorage):
            return GcsStorage(storage.bucket, storage.prefix, replace(storage.options, user_agent=agent))
    return storage
