"""The frame around every file but the chunks: a header of 39 bytes, then one zstd frame.

     0  12  magic: "ICE" U+1F9CA "CHUNK" in UTF-8
    12  24  name and version of the writer, padded with spaces
    36   1  spec version: 1 or 2
    37   1  file type
    38   1  compression: 1 = zstd (0 = none is defined, but neither written nor accepted)
    39      one zstd frame; writers up to 2.1.2 do not declare the size of its content

A frame's blocks are walked before anything is decompressed, so that a truncated or concatenated frame, a false size
and a bomb are seen for what they are without allocating for them. Two limits hold, whichever is lower: the caller's
`max_body_bytes`, and `MAX_RATIO` times the file's size (with 64 MiB free of it; real files stay below 100).

Source: spec 2.1 "File structure"; format notes §7.2; RFC 8878 §3.1.
"""

from enum import IntEnum

import zstandard

from icefs.errors import FormatError, InvalidInputError, UnsupportedSpecVersionError

MAGIC = "ICE🧊CHUNK".encode()
HEADER_BYTES = 39
SPEC_VERSIONS = (1, 2)
MAX_BODY_BYTES = 2**31 - 1
"""FlatBuffers cannot be larger than 2 GiB."""
MAX_RATIO = 1000
UNLIMITED_BELOW_BYTES = 64 << 20

_WRITER = b"icefs"
_ZSTD = 1
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_MAX_BYTES = 128 << 10
_RAW, _RLE, _COMPRESSED = range(3)


class FileType(IntEnum):
    """The kind of a file, from its header."""

    SNAPSHOT = 1
    MANIFEST = 2
    ATTRIBUTES = 3
    TRANSACTION_LOG = 4
    CHUNK = 5
    REPO_INFO = 6


def encode_file(body: bytes | memoryview, *, file_type: FileType, spec_version: int, level: int = 3) -> bytes:
    """Wraps a flatbuffer into a file: header, and one zstd frame that declares its content's size.

    Args:
        body: The flatbuffer.
        file_type: The kind of file.
        spec_version: 1 or 2.
        level: zstd's compression level.

    Raises:
        InvalidInputError: there is no such spec version.
    """
    if spec_version not in SPEC_VERSIONS:
        raise InvalidInputError(f"spec version {spec_version} is not one of 1 and 2", kind="unsupported-spec-version")
    header = MAGIC + _WRITER.ljust(24) + bytes((spec_version, file_type, _ZSTD))
    return header + zstandard.ZstdCompressor(level=level, write_content_size=True).compress(body)


def decode_file(
    data: bytes | memoryview, *, file_type: FileType, name: str, max_body_bytes: int = MAX_BODY_BYTES
) -> tuple[int, bytes]:
    """Takes a file apart.

    Args:
        data: The whole file.
        file_type: The kind that it must have.
        name: The file's key, for errors.
        max_body_bytes: Refuse larger bodies.

    Returns:
        The spec version (1 or 2) that the file was written in, and the flatbuffer.

    Raises:
        FormatError: not such a file, or damaged.
        UnsupportedSpecVersionError: written by a newer Icechunk.
    """
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise _error(name, f"{len(view)} bytes are fewer than a header has")
    if view[:12] != MAGIC:
        raise _error(name, "it does not begin with Icechunk's magic bytes")
    spec_version, found_type, compression = view[36:HEADER_BYTES]
    if spec_version == 0:
        raise _error(name, "its spec version is 0")
    if spec_version not in SPEC_VERSIONS:
        raise _newer(name, spec_version)
    if found_type != file_type:
        raise _error(name, f"its file type is {_type_name(found_type)}, not {file_type.name}")
    if compression != _ZSTD:
        raise _error(name, f"its compression algorithm is {compression}, not 1 (zstd)")
    return spec_version, _decompress(view[HEADER_BYTES:], name, max_body_bytes)


def check_known_version(head: bytes, *, name: str) -> None:
    """Refuses a file that a newer Icechunk wrote, by its first `HEADER_BYTES`; anything else passes, damaged or not.

    Raises:
        UnsupportedSpecVersionError: it was written in a spec version that this icefs does not know.
    """
    if len(head) < HEADER_BYTES or head[:12] != MAGIC or head[36] in (0, *SPEC_VERSIONS):
        return
    raise _newer(name, head[36])


def _newer(name: str, spec_version: int) -> UnsupportedSpecVersionError:
    reason = f"it was written in spec version {spec_version}, this icefs knows 1 and 2"
    return UnsupportedSpecVersionError(f"{name}: {reason}", hint="upgrade icefs", file=name, reason=reason)


def _decompress(frame: memoryview, name: str, max_body_bytes: int) -> bytes:
    try:
        declared = zstandard.frame_content_size(frame)
        bound = _content_bound(frame, name)
        limit = min(max_body_bytes, max(UNLIMITED_BELOW_BYTES, MAX_RATIO * len(frame)))
        if declared > bound:
            raise _error(name, f"its zstd frame declares {declared} bytes, but holds {bound} at most")
        if declared > limit:
            raise _error(name, f"its body of {declared} bytes is larger than {limit}")
        # Without a declared size (-1), data beyond the bound fails as damaged.
        body: bytes = zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=max(1, min(bound, limit)), allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise _error(name, f"its zstd frame is damaged ({error})") from None
    return body


def _content_bound(frame: memoryview, name: str) -> int:
    """Walks a frame's blocks: the most that they can decompress to; the frame must end where the file does."""
    if frame[:4] != _ZSTD_MAGIC:
        raise _error(name, "no zstd frame follows its header")
    bound = 0
    position = zstandard.frame_header_size(frame)
    is_last = False
    while not is_last:
        if position + 3 > len(frame):
            raise _error(name, "its zstd frame is truncated")
        block = int.from_bytes(frame[position : position + 3], "little")
        is_last, kind, size_bytes = bool(block & 1), block >> 1 & 3, block >> 3
        if kind > _COMPRESSED or size_bytes > _BLOCK_MAX_BYTES:
            raise _error(name, "its zstd frame has an impossible block")
        position += 3 + (1 if kind == _RLE else size_bytes)
        bound += _BLOCK_MAX_BYTES if kind == _COMPRESSED else size_bytes
    has_checksum = bool(frame[4] & 4)
    position += 4 * has_checksum
    if position > len(frame):
        raise _error(name, "its zstd frame is truncated")
    if position < len(frame):
        raise _error(name, f"{len(frame) - position} bytes follow its zstd frame")
    return bound


def _type_name(code: int) -> str:
    return FileType(code).name if code in FileType else str(code)


def _error(name: str, reason: str) -> FormatError:
    return FormatError(f"{name} is malformed: {reason}", file=name, reason=reason)
