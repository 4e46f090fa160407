"""The facts of a mount in `info.json` that the file system does not know itself: its start, and its options now."""

from collections.abc import Mapping
from typing import Any


class MountFacts:
    """The facts of one mount. Its owner changes options and the state of the service; readers get copies.

    Concurrency: on the event loop's thread.
    """

    def __init__(
        self, facts: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None, **service: Any
    ) -> None:
        """Takes the facts that do not change, such as `version` and `mountpoint`, the options, and the service's state.

        All are JSON. Facts that are None or empty are left out.
        """
        self._facts = dict(facts or {})
        self._options = dict(options or {})
        self._service = service

    @property
    def version(self) -> str:
        """The version of the daemon; empty where that is not known."""
        return str(self._facts.get("version", ""))

    @property
    def mountpoint(self) -> str:
        """The mountpoint; empty where there is none."""
        return str(self._facts.get("mountpoint", ""))

    @property
    def service(self) -> dict[str, Any]:
        """The state of the service, in JSON."""
        return dict(self._service)

    def set_option(self, name: str, value: Any) -> None:
        """Notes that an option has another value from now on."""
        self._options[name] = value

    def set_service(self, **state: Any) -> None:
        """Notes that some of the service's state is another one from now on."""
        self._service |= state

    def as_json(self) -> dict[str, Any]:
        """Returns all facts as they are now."""
        found = dict(self._facts)
        if self._options:
            found["options"] = dict(self._options)
        if self._service:
            found["service"] = dict(self._service)
        return found
