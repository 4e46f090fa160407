"""zarr.json documents, valid and not, with the verdict that the official library gives when one is stored."""

import json
from enum import Enum
from typing import Any


class Verdict(Enum):
    """What becomes of a document that is stored."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    V2_ONLY = "accepted in spec version 2"
    OURS_V2_ONLY = "refused by the official library, accepted by icefs in spec version 2 (zarr writes it)"


BASE: dict[str, Any] = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4],
    "data_type": "bool",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
    "chunk_key_encoding": {"name": "default"},
    "fill_value": False,
    "codecs": [{"name": "bytes"}],
}


def array_document(*without: str, **members: Any) -> bytes:
    """Makes a document for an array: `BASE` with other members, and without those named."""
    document = {key: value for key, value in {**BASE, **members}.items() if key not in without}
    return json.dumps(document).encode()


ARRAY = array_document()


def _regular(*sizes: Any, shape: list[Any] | None = None) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": list(sizes)}}
    return array_document(chunk_grid=grid, shape=[4] if shape is None else shape)


def _rectilinear(*axes: Any, **more: Any) -> bytes:
    return array_document(chunk_grid={"name": "rectilinear", "configuration": {"chunk_shapes": list(axes), **more}})


def _with(text: bytes) -> bytes:
    return ARRAY[:-1] + b"," + text + b"}"


_OK, _NO, _V2 = Verdict.ACCEPTED, Verdict.REFUSED, Verdict.V2_ONLY

DOCUMENTS: dict[str, tuple[bytes, Verdict]] = {
    "array": (ARRAY, _OK),
    "no zarr_format": (array_document("zarr_format"), _OK),
    "zarr_format 2": (array_document(zarr_format=2), _OK),
    "zarr_format a string": (array_document(zarr_format="3"), _OK),
    "no node_type": (array_document("node_type"), _NO),
    "another node_type": (array_document(node_type="x"), _NO),
    "node_type a number": (array_document(node_type=5), _NO),
    "smallest group": (b'{"node_type":"group"}', _OK),
    "group": (b'{"zarr_format":3,"node_type":"group"}', _OK),
    "group with odd attributes": (b'{"zarr_format":3,"node_type":"group","attributes":5}', _OK),
    "group with an array's members": (b'{"node_type":"group","shape":"x","chunk_grid":5}', _OK),
    "consolidated": (b'{"zarr_format":3,"node_type":"group","consolidated_metadata":{"x":1}}', _OK),
    "no shape": (array_document("shape"), _NO),
    "shape null": (array_document(shape=None), _NO),
    "negative shape": (array_document(shape=[-1]), _NO),
    "float shape": (array_document(shape=[4.0]), _NO),
    "bool shape": (array_document(shape=[True]), _NO),
    "string shape": (array_document(shape=["4"]), _NO),
    "shape beyond 64 bits": (array_document(shape=[2**64]), _NO),
    "shape of 64 bits": (array_document(shape=[2**64 - 1]), _OK),
    "no grid": (array_document("chunk_grid"), _NO),
    "unknown grid": (array_document(chunk_grid={"name": "hex", "configuration": {"chunk_shape": [2]}}), _NO),
    "grid a string": (array_document(chunk_grid="regular"), _NO),
    "grid without configuration": (array_document(chunk_grid={"name": "regular"}), _NO),
    "grid without name": (array_document(chunk_grid={"configuration": {"chunk_shape": [2]}}), _NO),
    "configuration a list": (array_document(chunk_grid={"name": "regular", "configuration": [1]}), _NO),
    "configuration empty": (array_document(chunk_grid={"name": "regular", "configuration": {}}), _NO),
    "chunks of size 0": (_regular(0), _OK),
    "negative chunks": (_regular(-1), _NO),
    "float chunks": (_regular(2.0), _NO),
    "bool chunks": (_regular(True), _NO),
    "more chunk sizes than dimensions": (_regular(2, 2), _OK),
    "fewer chunk sizes than dimensions": (_regular(2, shape=[4, 4]), _NO),
    "scalar": (_regular(shape=[]), _OK),
    "very many chunks": (_regular(1, shape=[2**40]), _OK),
    "rectilinear": (_rectilinear([1, 2, 1], kind="inline"), _V2),
    "rectilinear without kind": (_rectilinear([1, 2, 1]), _V2),
    "rectilinear runs": (_rectilinear([[1, 4]]), _V2),
    "rectilinear of the wrong length": (_rectilinear([1, 2]), _V2),
    "rectilinear floats": (_rectilinear([1.5, 2.5]), _V2),
    "rectilinear negative": (_rectilinear([-4]), _V2),
    "rectilinear empty": (_rectilinear([]), _V2),
    "rectilinear run of three": (_rectilinear([[1, 4, 5]]), _V2),
    "rectilinear run of one": (_rectilinear([[4]]), _NO),
    "rectilinear run of nothing": (_rectilinear([[]]), _NO),
    "rectilinear negative run": (_rectilinear([[1, -4]]), _NO),
    "rectilinear strings": (_rectilinear(["a"]), _NO),
    "rectilinear booleans": (_rectilinear([True]), _NO),
    "rectilinear null": (_rectilinear(None), _NO),
    "rectilinear of too few axes": (_rectilinear(), _NO),
    "rectilinear of too many axes": (_rectilinear([4], [4]), _NO),
    "rectilinear bare number": (_rectilinear(2), Verdict.OURS_V2_ONLY),
    "names": (array_document(dimension_names=["x"]), _OK),
    "names null": (array_document(dimension_names=None), _OK),
    "a name null": (array_document(dimension_names=[None]), _OK),
    "a name empty": (array_document(dimension_names=[""]), _OK),
    "too many names": (array_document(dimension_names=["x", "y"]), _OK),
    "no names": (array_document(dimension_names=[]), _OK),
    "a name a number": (array_document(dimension_names=[1]), _NO),
    "names a string": (array_document(dimension_names="x"), _NO),
    "no chunk key encoding": (array_document("chunk_key_encoding"), _OK),
    "unknown chunk key encoding": (array_document(chunk_key_encoding={"name": "weird"}), _OK),
    "chunk key encoding a string": (array_document(chunk_key_encoding="default"), _OK),
    "no codecs": (array_document("codecs"), _OK),
    "no data type": (array_document("data_type"), _OK),
    "NaN": (ARRAY.replace(b"false", b"NaN"), _NO),
    "Infinity": (ARRAY.replace(b"false", b"-Infinity"), _NO),
    "shape twice": (_with(b'"shape":[8]'), _NO),
    "node_type twice": (_with(b'"node_type":"array"'), _NO),
    "grid name twice": (ARRAY.replace(b'"name": "regular"', b'"name":"regular","name":"regular"'), _NO),
    "codecs twice": (_with(b'"codecs":[]'), _OK),
    "attributes twice": (_with(b'"attributes":{"shape":1,"shape":2},"attributes":{}'), _OK),
    "byte order mark": (b"\xef\xbb\xbf" + ARRAY, _NO),
    "text behind": (ARRAY + b" x", _NO),
    "NUL behind": (ARRAY + b"\0", _NO),
    "white space around": (b" \n" + ARRAY + b"\n\t ", _OK),
    "nothing": (b"", _NO),
    "no object": (b"[]", _NO),
    "null": (b"null", _NO),
    "no UTF-8 in what is not looked at": (ARRAY.replace(b'"bool"', b'"\xe9"'), _OK),
    "no UTF-8 in a name": (array_document(dimension_names=["x"]).replace(b'"x"', b'"\xe9"'), _NO),
    "surrogate in what is not looked at": (ARRAY.replace(b'"bool"', b'"\\ud800"'), _OK),
    "surrogate in a name": (array_document(dimension_names=["\ud800"]), _NO),
    "deep": (_with(b'"attributes":' + b"[" * 100 + b"]" * 100), _OK),
    "long number": (_with(b'"attributes":' + b"9" * 400), _OK),
    "huge float": (_with(b'"attributes":1e999'), _OK),
    "control character": (ARRAY.replace(b'"bool"', b'"\x01"'), _NO),
}
