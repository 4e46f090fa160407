"""systemd's `sd_notify(3)`: a datagram of lines to the socket that `$NOTIFY_SOCKET` names. It needs no library."""

import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Self

logger = logging.getLogger(__name__)


class ServiceManager:
    """The service manager that started this process; without one, every method does nothing.

    Attributes:
        watchdog_s: Within how many seconds it wants a sign of life again and again; None for never.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """Opens a socket to the manager's address; `@` begins an abstract one (unix(7))."""
        self.watchdog_s = watchdog_s
        self._socket: socket.socket | None = None
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Self:
        """Takes the manager's variables out of the environment: children of this process are no services."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_ours = pid in ("", str(os.getpid()))
        watchdog_s = int(microseconds) / 1e6 if microseconds.isdecimal() and is_ours else None
        if address is not None and not address.startswith(("/", "@")):
            logger.warning("the service manager gets no notifications: NOTIFY_SOCKET=%s is no local socket", address)
            address = None
        return cls(address, watchdog_s or None)

    @property
    def is_there(self) -> bool:
        """Whether there is a manager that takes notifications."""
        return self._socket is not None

    def notify(self, **fields: str) -> None:
        """Sends fields, such as `READY="1"`. A manager that does not listen is no reason to fail."""
        if self._socket is None:
            return
        message = "\n".join(f"{name}={' '.join(value.split())}" for name, value in fields.items())
        try:
            self._socket.sendto(message.encode(errors="replace"), self._address)
        except OSError as error:
            logger.debug("the service manager does not listen: %s", error)

    def close(self) -> None:
        """Closes the socket; later notifications are dropped."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
