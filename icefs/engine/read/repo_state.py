"""What `repo` keeps besides refs and snapshots: the status, the repository's metadata, feature flags, the ops log.

Only spec 2 has `repo`: each function raises UnsupportedSpecVersionError for a repository of spec version 1, and
StaleError for one that was upgraded since it was opened.

Source: spec 2.1 "Repository Info File" and "Updates to the repo info file"; format notes §7.4.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from icefs.engine.read.assets import AssetManager
from icefs.engine.read.context import ReadContext
from icefs.errors import ObjectNotFoundError, UnsupportedSpecVersionError
from icefs.format.repo.info import RepoInfo
from icefs.format.repo.ops_log import RepoStatus, Update

_FLAGS: Final = (("move_node", 3, True), ("create_tag", 4, True), ("delete_tag", 5, True))


@dataclass(frozen=True, slots=True)
class FeatureFlag:
    """Whether something that a repository of spec 2 may forbid is allowed.

    Attributes:
        id: Its number in `repo`.
        name: Its official name.
        default_enabled: Whether it is on where nobody set it.
        setting: What somebody set it to, or None.
    """

    id: int
    name: str
    default_enabled: bool
    setting: bool | None

    @property
    def enabled(self) -> bool:
        """Whether it is on."""
        return self.default_enabled if self.setting is None else self.setting


def repo_info(context: ReadContext, what: str) -> RepoInfo:
    """Reads `repo`, and asks the store whether it changed.

    Args:
        context: The repository.
        what: The thing that needs it, for the message.

    Raises:
        UnsupportedSpecVersionError: the repository is of spec version 1.
        StaleError: it was upgraded since it was opened.
    """
    if context.spec_version == 1:
        context.check_not_upgraded()
        raise UnsupportedSpecVersionError(
            f"{what} needs a repository of spec version 2, and {context.storage.url} is of version 1",
            hint="upgrade the repository",
            least="2.0",
        )
    return context.assets.fetch_repo_info()[0]


def ops_log(context: ReadContext) -> Iterator[Update]:
    """Returns the updates of the repository, newest first, back through the earlier states of `repo`.

    The log ends silently where an earlier state is gone. Errors about the repository are raised by the call itself.
    """
    return _updates(context.assets, repo_info(context, "the ops log"))


def _updates(assets: AssetManager, info: RepoInfo | None) -> Iterator[Update]:
    backup: str | None = None
    seen: set[str] = set()
    while info is not None:
        for update in info.latest_updates:
            # The newest update in a file never names a backup: it is in the file that led here.
            yield update if update.backup_path is not None else replace(update, backup_path=backup)
        backup = info.repo_before_updates
        if backup is None or backup in seen:
            return
        seen.add(backup)
        try:
            info = assets.fetch_repo_info_backup(backup)
        except ObjectNotFoundError:
            return


def status(context: ReadContext) -> RepoStatus:
    """Returns whether the repository is online."""
    return repo_info(context, "the repository's status").status


def metadata(context: ReadContext) -> Mapping[str, Any]:
    """Returns the repository's own metadata: JSON values by name."""
    return repo_info(context, "repository metadata").metadata


def feature_flags(context: ReadContext) -> list[FeatureFlag]:
    """Returns the state of all known flags."""
    info = repo_info(context, "feature flags")

    def setting(number: int) -> bool | None:
        if number in info.enabled_feature_flags:
            return True
        return False if number in info.disabled_feature_flags else None

    return [FeatureFlag(number, name, default, setting(number)) for name, number, default in _FLAGS]
