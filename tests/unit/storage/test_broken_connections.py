"""Broken connections of the clouds' clients: each is tried again, and none that was sent passes for unsent."""

import pytest
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from requests import exceptions as request_errors
from urllib3 import exceptions as http_errors

from icefs.errors import UnreachableError
from icefs.storage.azure.errors import azure_error
from icefs.storage.gcs.errors import gcs_error

_AFTER_SENDING = (
    http_errors.ProtocolError("Connection aborted."),
    http_errors.IncompleteRead(1, 2),
    http_errors.ReadTimeoutError(None, "/", "Read timed out."),
    http_errors.ClosedPoolError(None, "closed"),
    request_errors.ChunkedEncodingError("cut"),
    request_errors.ReadTimeout("Read timed out."),
    request_errors.ConnectionError(http_errors.ProtocolError("Connection aborted.")),
    request_errors.ConnectionError(http_errors.ClosedPoolError(None, "closed")),
    request_errors.ConnectionError(OSError("reset")),
)
_BEFORE_SENDING = (
    request_errors.ConnectionError(
        http_errors.MaxRetryError(None, "/", http_errors.NewConnectionError(None, "refused"))
    ),
    request_errors.ConnectTimeout(http_errors.MaxRetryError(None, "/", http_errors.ConnectTimeoutError(None, "slow"))),
)


def _translated(error):
    yield gcs_error(error, action="write k", endpoint="http://h")
    yield azure_error(ServiceRequestError(error, error=error), action="write k", endpoint="http://h")


@pytest.mark.parametrize("error", _AFTER_SENDING, ids=repr)
def test_a_request_that_may_have_been_served_is_in_doubt(error):
    response = ServiceResponseError(error, error=error)
    for found in (*_translated(error), azure_error(response, action="write k", endpoint="http://h")):
        assert isinstance(found, UnreachableError)
        assert found.is_transient
        assert not found.facts["never_connected"]


@pytest.mark.parametrize("error", _BEFORE_SENDING, ids=repr)
def test_a_request_that_was_never_sent_is_known_as_such(error):
    for found in _translated(error):
        assert isinstance(found, UnreachableError)
        assert found.facts["never_connected"]
