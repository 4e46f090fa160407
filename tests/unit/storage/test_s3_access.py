"""The way to one bucket: tries, and what failures become, without a service."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from icefs.errors import AccessDeniedError, StorageError, UnreachableError
from icefs.storage.retry import Retrier, RetryPolicy
from icefs.storage.s3.access import BucketAccess
from icefs.storage.s3.options import S3Credentials, S3Options

OPTIONS = S3Options(
    endpoint_url="http://127.0.0.1:9",
    region="us-east-1",
    credentials=S3Credentials("id", "secret"),
    requester_pays=True,
)


@pytest.fixture
def waits():
    return []


@pytest.fixture
def access(waits):
    retrier = Retrier(RetryPolicy(max_tries=3, first_contact_tries=3), draw=lambda: 0.0, wait=waits.append)
    access = BucketAccess("bucket", OPTIONS, retrier)
    yield access
    access.close()


def refusal(status, code):
    facts = {"Error": {"Code": code, "Message": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(facts, "GetObject")


def failing(*errors):
    """Makes an operation that fails so, then succeeds."""
    left = list(errors)

    def operation(requests):
        if left:
            raise left.pop(0)
        return "done"

    return operation


def test_a_passing_failure_is_tried_again_and_told(access, waits):
    told = []
    throttled = refusal(503, "SlowDown")
    assert access.run_lean("read", "pre/a", failing(throttled, throttled), on_failure=told.append) == "done"
    assert (len(told), len(waits)) == (2, 2)


def test_tries_end_and_the_error_names_the_object(access, waits):
    lost = EndpointConnectionError(endpoint_url="http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match="cannot read s3://bucket/pre/a") as caught:
        access.run_lean("read", "pre/a", failing(*[lost] * 9))
    assert (caught.value.facts["tries"], len(waits)) == (3, 2)


def test_a_lasting_refusal_is_final(access, waits):
    with pytest.raises(AccessDeniedError):
        access.run_lean("write", "pre/a", failing(refusal(403, "AccessDenied")))
    assert waits == []


def test_a_conflict_passes_where_nothing_was_asked_for_and_else_does_not(access, waits):
    conflict = refusal(409, "OperationAborted")
    assert access.run_lean("write", "a", failing(conflict), conflicts_pass=True) == "done"
    assert len(waits) == 1
    with pytest.raises(StorageError):
        access.run_lean("write", "a", failing(conflict))
    assert len(waits) == 1


def test_a_name_that_cannot_be_printed_is_escaped(access):
    with pytest.raises(AccessDeniedError) as caught:
        access.run_lean("read", "a\nb", failing(refusal(403, "AccessDenied")))
    assert "\n" not in caught.value.message
    assert r"a\nb" in caught.value.message


def test_requests_are_ready_once_there_is_a_connection(access):
    assert access.ready_requests() is None
    requests = access.requests()
    assert access.ready_requests() is requests is access.requests()


def test_agreement_to_pay_is_in_arguments_and_headers(access):
    assert (access.payer, access.lean_payer) == ({"RequestPayer": "requester"}, {"x-amz-request-payer": "requester"})
    other = BucketAccess("bucket", S3Options(endpoint_url="http://127.0.0.1:9"), access.retrier)
    assert (other.payer, other.lean_payer) == ({}, {})
    assert other.url("pre/a") == "s3://bucket/pre/a"
