"""Keys for Google Cloud Storage, and the objects of Google's library that are made of them."""

import json
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import google.auth
from google.auth import credentials as google_credentials
from google.auth import exceptions as auth_errors
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from icefs.errors import AccessDeniedError
from icefs.storage.gcs.options import GcsKey, GcsKeyFile, GcsOptions, GcsToken

_SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_write",)
_HINT: Final = (
    "run 'gcloud auth application-default login', set GOOGLE_APPLICATION_CREDENTIALS to a key file,"
    " or add ?anonymous=true to the location"
)


class _Tokens(google_credentials.Credentials):  # type: ignore[misc]  # of a library without types
    """Credentials of Google's library whose tokens come from a callback."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = source

    def refresh(self, request: object) -> None:
        """Asks for a token; Google's library calls this at the first request, and when the token has expired."""
        found = self._source()
        if not isinstance(found, GcsToken):
            raise auth_errors.RefreshError("the callback for credentials returned something else than a token")
        self.token = found.token
        # Google's library compares with times without a zone.
        ends = found.expires_after
        self.expiry = None if ends is None else ends.astimezone(UTC).replace(tzinfo=None)


def google_credentials_of(options: GcsOptions, *, is_emulator: bool) -> Any:
    """Returns the credentials of Google's library for the options.

    Args:
        options: The service.
        is_emulator: Whether the environment names an emulator, which asks for no credentials.

    Raises:
        AccessDeniedError: there are none, or they cannot be read; the error repeats nothing of them.
    """
    given = options.credentials
    try:
        if options.anonymous or (given is None and is_emulator):
            return google_credentials.AnonymousCredentials()
        match given:
            case None:
                return google.auth.default(scopes=_SCOPES)[0]
            case GcsKeyFile(path):
                return _from_key(Path(path).read_text(encoding="utf-8"))
            case GcsKey(text):
                return _from_key(text)
            case GcsToken():
                return _Tokens(lambda: given)
            case _:
                return _Tokens(given)
    except (auth_errors.GoogleAuthError, OSError, ValueError, KeyError) as error:
        where = f" in {given.path}" if isinstance(given, GcsKeyFile) else ""
        raise AccessDeniedError(
            f"there are no valid credentials for Google Cloud Storage{where} ({type(error).__name__})", hint=_HINT
        ) from None


def _from_key(text: str) -> Any:
    """Makes credentials of the JSON of a service account, or of a user's login.

    Other kinds name programs to run and servers to ask; those are taken from the environment alone.

    Raises:
        ValueError: it is something else.
    """
    found = json.loads(text)
    match found.get("type") if isinstance(found, dict) else None:
        case "service_account":
            return service_account.Credentials.from_service_account_info(found, scopes=_SCOPES)
        case "authorized_user":
            return user_credentials.Credentials.from_authorized_user_info(found, scopes=_SCOPES)
    raise ValueError("neither a service account nor a user's login")
