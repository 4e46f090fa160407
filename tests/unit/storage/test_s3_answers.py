"""Answers to writes: which of them icefs takes for the store's."""

import io

import pytest
from urllib3 import HTTPResponse

from icefs.storage.answers import AnswerError
from icefs.storage.s3.answers import stored


def answer(status, data=b"", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HTTPResponse(io.BytesIO(data), headers=named, status=status, preload_content=False)


@pytest.mark.parametrize("content_type", ["application/xml", "text/plain", "text/html; charset=utf-8"])
def test_a_write_is_told_by_its_entity_tag_and_an_empty_body_whatever_their_type(content_type):
    # Services on a web framework send its default type with an empty body, too.
    assert stored(answer(200, ETag='"1-a"', Content_Type=content_type), b"") == "1-a"


@pytest.mark.parametrize(
    ("given", "data"),
    [
        (answer(200, ETag='"1-a"'), b"<html>please log in</html>"),
        (answer(200, Content_Type="text/html"), b""),
        (answer(200, ETag='""'), b""),
        (answer(201, ETag='"1-a"'), b""),
        (answer(204, ETag='"1-a"'), b""),
    ],
)
def test_a_body_no_entity_tag_or_another_status_are_not_the_answer_to_a_write(given, data):
    with pytest.raises(AnswerError):
        stored(given, data)
