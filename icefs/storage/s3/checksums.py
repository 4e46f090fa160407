"""The checksums that a service may be sent with uploads, and compares with what arrives.

Source: Amazon S3 User Guide, "Checking object integrity"; by the names of its API.
"""

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Callable
from typing import Final

from icefs.errors import InvalidInputError, UnsupportedError

type Sum = Callable[[bytes], bytes]
"""Returns the checksum of the bytes, big-endian."""

ALGORITHMS: Final = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")


def check_algorithm(algorithm: str) -> None:
    """Refuses an algorithm that cannot be computed here.

    Raises:
        InvalidInputError: there is no such algorithm.
        UnsupportedError: it takes a package that is not installed.
    """
    _sum_of(algorithm)


def checksum_headers(algorithm: str, body: bytes) -> dict[str, str]:
    """Returns the headers of an upload's checksum; raises as `check_algorithm`."""
    told = b64encode(_sum_of(algorithm)(body)).decode()
    return {"x-amz-sdk-checksum-algorithm": algorithm, f"x-amz-checksum-{algorithm.lower()}": told}


def _sum_of(algorithm: str) -> Sum:
    match algorithm:
        case "CRC32":
            return lambda body: zlib.crc32(body).to_bytes(4, "big")
        case "SHA1":
            return lambda body: hashlib.sha1(body, usedforsecurity=False).digest()
        case "SHA256":
            return lambda body: hashlib.sha256(body).digest()
        case "CRC32C" | "CRC64NVME":
            return _sum_of_aws(algorithm)
        case _:
            raise InvalidInputError(
                f"there is no checksum algorithm {algorithm!r}", hint=f"choose one of {', '.join(ALGORITHMS)}"
            )


def _sum_of_aws(algorithm: str) -> Sum:
    try:
        from awscrt import checksums  # lazy: an extra, for these two alone
    except ModuleNotFoundError:
        raise UnsupportedError(
            f"the checksum {algorithm} cannot be computed: the Python package awscrt is not installed",
            hint="pip install 'icefs[checksums]', or choose CRC32, SHA1 or SHA256",
        ) from None
    if algorithm == "CRC32C":
        return lambda body: int(checksums.crc32c(body)).to_bytes(4, "big")
    return lambda body: int(checksums.crc64nvme(body)).to_bytes(8, "big")
