"""The Zarr store under its official name and with an API session."""

from typing import TYPE_CHECKING

from icefs.zarr import store

if TYPE_CHECKING:
    from icefs.api.session import Session


class IcechunkStore(store.IcechunkStore):
    """A session as a zarr-python store; `Session.store` makes it."""

    @property
    def session(self) -> "Session":
        """The session that the store reads."""
        from icefs.api.session import Session  # the session makes stores, too

        return Session(self._session)
