"""Object stores behind one interface.

base         the interface of a store, and what every store promises
url          locations as users write them
kinds        the kinds of stores, and the options of each
local        objects as files below a directory
s3           objects in an S3 bucket
gcs          objects in a bucket of Google Cloud Storage
azure        objects in a container of Azure Blob Storage
http         objects behind a web server, read-only
memory       objects in memory
cache        the disk cache in front of a remote store
publishing   writes on a condition, whose answers may be lost
settings     how a store is to be used
rehearsal    writes that stay in memory, over a store that is only read
metered      counts requests, bytes, times and errors
retry        retries with back-off and jitter
deadlines    ends a try at its deadline
http_client  HTTP requests, with redirects within bounds
redirects    URLs that lead to a store
range_reads  many range reads over HTTP on one thread
answers      whether an HTTP answer comes from the store
proxies      the proxy that the environment names

Programs import the official names of `storage` from here, too: `icefs.api` defines them, and is loaded with the first.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "AnyObjectStoreConfig",
    "ChecksumAlgorithm",
    "ChunkType",
    "ObjectStoreConfig",
    "S3Options",
    "Storage",
    "StorageConcurrencySettings",
    "StorageRetriesSettings",
    "StorageSettings",
    "StorageTimeoutSettings",
    "azure_storage",
    "azure_store",
    "gcs_storage",
    "gcs_store",
    "hf_storage",
    "http_storage",
    "http_store",
    "in_memory_storage",
    "local_filesystem_storage",
    "local_filesystem_store",
    "r2_storage",
    "redirect_storage",
    "s3_object_store_storage",
    "s3_storage",
    "s3_store",
    "tigris_storage",
]

if not TYPE_CHECKING:  # so that type checkers report wrong names of modules

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return getattr(import_module("icefs.api"), name)
        raise AttributeError(f"module 'icefs.storage' has no attribute {name!r}")
