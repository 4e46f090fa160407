"""The frame around files: what is read, and what is refused for which reason."""

import re

import pytest
import zstandard

from icefs.errors import FormatError, InvalidInputError, UnsupportedSpecVersionError
from icefs.format.header import HEADER_BYTES, FileType, decode_file, encode_file

NAME = "manifests/X"
BODY = bytes(range(256)) * 40


def encoded(body: bytes = BODY, spec_version: int = 2) -> bytes:
    return encode_file(body, file_type=FileType.MANIFEST, spec_version=spec_version)


def decode(data: bytes | memoryview, **options: int) -> tuple[int, bytes]:
    return decode_file(data, file_type=FileType.MANIFEST, name=NAME, **options)


def with_frame(frame: bytes) -> bytes:
    return encoded()[:HEADER_BYTES] + frame


@pytest.mark.parametrize("spec_version", [1, 2])
@pytest.mark.parametrize("body", [b"", b"x", BODY, bytes(1 << 20)])
def test_what_is_encoded_decodes(spec_version: int, body: bytes) -> None:
    data = encoded(body, spec_version)
    assert decode(data) == (spec_version, body)
    assert decode(memoryview(data)) == (spec_version, body)
    assert zstandard.frame_content_size(data[HEADER_BYTES:]) == len(body)


def test_the_header_is_laid_out_as_the_spec_says() -> None:
    data = encode_file(b"", file_type=FileType.REPO_INFO, spec_version=2)
    assert data[:12] == bytes.fromhex("494345f09fa78a4348554e4b")
    assert data[12:36] == b"icefs".ljust(24)
    assert data[36:39] == bytes((2, 6, 1))


def test_encoding_knows_the_spec_versions() -> None:
    with pytest.raises(InvalidInputError):
        encoded(spec_version=3)


def test_the_writers_name_does_not_matter() -> None:
    data = bytearray(encoded())
    data[12:36] = bytes(24)
    assert decode(bytes(data)) == (2, BODY)


@pytest.mark.parametrize(
    ("position", "value", "reason"),
    [
        (0, 0, "magic"),
        (11, 0x4A, "magic"),
        (36, 0, "spec version is 0"),
        (37, 1, "file type is SNAPSHOT, not MANIFEST"),
        (37, 77, "file type is 77, not MANIFEST"),
        (38, 0, "compression algorithm is 0"),
        (38, 2, "compression algorithm is 2"),
    ],
)
def test_bad_headers(position: int, value: int, reason: str) -> None:
    data = bytearray(encoded())
    data[position] = value
    with pytest.raises(FormatError, match=reason) as caught:
        decode(bytes(data))
    assert caught.value.facts["file"] == NAME
    assert reason in caught.value.facts["reason"]


def test_a_newer_spec_version_asks_for_an_upgrade() -> None:
    data = bytearray(encoded())
    data[36] = 3
    with pytest.raises(UnsupportedSpecVersionError, match="spec version 3") as caught:
        decode(bytes(data))
    assert caught.value.hint == "upgrade icefs"


@pytest.mark.parametrize("size", [0, 11, 38])
def test_shorter_than_a_header(size: int) -> None:
    with pytest.raises(FormatError, match=f"{size} bytes are fewer"):
        decode(encoded()[:size])


@pytest.mark.parametrize("has_checksum", [False, True])
@pytest.mark.parametrize("has_size", [False, True])
def test_frames_of_other_writers(has_size: bool, has_checksum: bool) -> None:
    """Old official writers stream, without declaring the content's size."""
    compressor = zstandard.ZstdCompressor(write_checksum=has_checksum, write_content_size=has_size)
    stream = compressor.compressobj()
    body = BODY * 100
    frame = stream.compress(body) + stream.flush()
    assert decode(with_frame(frame)) == (2, body)
    assert decode(with_frame(compressor.compress(body))) == (2, body)


@pytest.mark.parametrize("has_size", [False, True])
def test_damaged_frames(has_size: bool) -> None:
    frame = zstandard.ZstdCompressor(write_content_size=has_size, write_checksum=True).compress(BODY)
    for size in range(len(frame)):
        with pytest.raises(FormatError):
            decode(with_frame(frame[:size]))
    with pytest.raises(FormatError, match="1 bytes follow"):
        decode(with_frame(frame + b"\0"))
    with pytest.raises(FormatError, match="bytes follow"):
        decode(with_frame(frame + frame))
    with pytest.raises(FormatError, match="damaged"):
        decode(with_frame(frame[:-1] + bytes((frame[-1] ^ 1,))))
    with pytest.raises(FormatError, match=re.escape("zstd frame")):
        decode(with_frame(b"\x50" + frame[1:]))


def test_a_declared_size_that_is_wrong() -> None:
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(1000)))
    at = frame.index((1000 - 256).to_bytes(2, "little"))
    for wrong in (999, 1001):
        frame[at : at + 2] = (wrong - 256).to_bytes(2, "little")
        with pytest.raises(FormatError):
            decode(with_frame(bytes(frame)))


def test_bodies_are_bounded() -> None:
    assert decode(encoded(), max_body_bytes=len(BODY)) == (2, BODY)
    with pytest.raises(FormatError, match="larger than"):
        decode(encoded(), max_body_bytes=len(BODY) - 1)
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    frame = stream.compress(BODY) + stream.flush()
    with pytest.raises(FormatError):
        decode(with_frame(frame), max_body_bytes=len(BODY) - 1)
