"""The Python API, under the official library's names.

`import icefs as ic` runs a program written for `import icechunk as ic`. Besides the official names there are
`Repository.log`, `merge`, `cherry_pick`, `revert` and `restore` with their `BroughtChanges`, `clone`, `pull` and `push`
with their `ExchangedHistories`, and `SnapshotInfo.commit_message`.

    repository   `Repository`: open, create, branches, tags, history
    session      `Session` and `ForkSession`: read, write, commit, rebase
    store        `IcechunkStore`, the Zarr store of a session
    storage      locations of repositories and of virtual chunks
    public_storage  `Storage`, the public type of all storages, with the official constructors
    redirected   where a redirect leads
    config       configuration
    azure_credentials  credentials for Azure
    gcs_credentials    credentials for Google Cloud Storage
    credentials  credentials, fixed or refreshed by a function
    conflicts    conflicts and the solvers that settle them
    values       the values that the API returns: snapshots, diffs, refs
    errors       the official error names, and the stable codes of `kind`
    graph        the drawing of the history
    upkeep       expiration, garbage collection, sizes, manifest rewrites
    bringing     merge, cherry-pick, revert and restore
    exchanging   clone, pull and push
    logs         which messages are logged, and where to
    tools        upgrades, versions
    attribution  labels that the access logs of buckets show
    aio          the `_async` twins of synchronous methods
    notebook     how values look in a notebook
    display      the text of values: their facts, one a line
"""

from typing import TYPE_CHECKING, Any

from icefs.api import azure_credentials as azure
from icefs.api import config, conflicts, credentials, errors, storage, tools, upkeep, values
from icefs.api import gcs_credentials as gcs
from icefs.api.attribution import Attribution
from icefs.api.azure_credentials import *  # noqa: F403
from icefs.api.bringing import BroughtChanges
from icefs.api.config import *  # noqa: F403
from icefs.api.conflicts import *  # noqa: F403
from icefs.api.credentials import *  # noqa: F403
from icefs.api.errors import *  # noqa: F403
from icefs.api.exchanging import ExchangedHistories, ExchangedRef
from icefs.api.gcs_credentials import *  # noqa: F403
from icefs.api.graph import AncestryGraph
from icefs.api.public_storage import Storage
from icefs.api.repository import Repository
from icefs.api.session import ForkSession, Session
from icefs.api.storage import *  # noqa: F403
from icefs.api.tools import *  # noqa: F403
from icefs.api.upkeep import *  # noqa: F403
from icefs.api.values import *  # noqa: F403
from icefs.api.values import SpecVersion

if TYPE_CHECKING:
    from icefs.api.store import IcechunkStore

__all__ = [
    "AncestryGraph",
    "Attribution",
    "BroughtChanges",
    "ExchangedHistories",
    "ExchangedRef",
    "ForkSession",
    "IcechunkStore",
    "Repository",
    "Session",
    "Storage",
    "spec_version",
    "supported_spec_versions",
    *azure.__all__,
    *gcs.__all__,
    *config.__all__,
    *conflicts.__all__,
    *credentials.__all__,
    *errors.__all__,
    *storage.__all__,
    *tools.__all__,
    *upkeep.__all__,
    *values.__all__,
]


def spec_version() -> SpecVersion:
    """Returns the version of the format that new repositories get."""
    return SpecVersion.current()


def supported_spec_versions() -> list[SpecVersion]:
    """Returns the versions of the format that icefs reads, newest first."""
    return [SpecVersion.v2, SpecVersion.v1]


def __getattr__(name: str) -> Any:
    if name == "IcechunkStore":
        from icefs.api.store import IcechunkStore  # lazy: importing zarr-python takes half a second

        return IcechunkStore
    raise AttributeError(f"module 'icefs.api' has no attribute {name!r}")


tools.initialize_logs()
