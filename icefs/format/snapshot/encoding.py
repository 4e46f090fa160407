"""How snapshot files encode values that readers and writers have to agree on.

Source: spec 2.1 "Snapshot Files"; `snapshot.fbs`.
"""

import struct
from typing import Final

MAX_U32: Final = 2**32 - 1
"""The most chunks of a dimension."""

ARRAY: Final = 1
GROUP: Final = 2
"""The codes of the union `NodeData`."""

V1_DIMENSION: Final = struct.Struct("<QQ")
"""The struct of a dimension in spec 1: array length, chunk length."""
