"""A storage that keeps nothing as it was given: code that bypasses the interface meets other names and bytes."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from icefs.storage.base import (
    Object,
    ObjectInfo,
    Storage,
    Version,
    check_conditions,
    check_key,
    check_range,
)

_MARK = "hex-"


def _hidden(key: str) -> str:
    check_key(key)
    directory, slash, name = key.rpartition("/")
    return f"{directory}{slash}{_MARK}{name}"


def _shown(key: str) -> str:
    directory, slash, name = key.rpartition("/")
    assert name.startswith(_MARK)
    return f"{directory}{slash}{name[len(_MARK) :]}"


class HexStorage(Storage):
    """Stores bytes in hexadecimal, twice as long, under marked names."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self.capabilities = replace(inner.capabilities, local_files=False)

    @property
    def url(self) -> str:
        return f"hex+{self._inner.url}"

    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        found = self._inner.get(_hidden(key), start=2 * start, end=None if end is None else 2 * end)
        return Object(bytes.fromhex(found.data.decode()), found.version)

    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        found = self._inner.get_if_changed(_hidden(key), known)
        return found and Object(bytes.fromhex(found.data.decode()), found.version)

    def head(self, key: str) -> ObjectInfo:
        return self._info(self._inner.head(_hidden(key)))

    def _info(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, key=_shown(info.key), size_bytes=info.size_bytes // 2)

    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        check_conditions(if_match, create_only)
        return self._inner.put(_hidden(key), data.hex().encode(), if_match=if_match, create_only=create_only)

    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        self._inner.copy(_hidden(source), _hidden(target), if_match=if_match)

    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return map(self._info, self._inner.iter_objects(prefix))

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        for name in self._inner.list_dir(prefix):
            yield name if name.endswith("/") else _shown(name)

    def delete(self, keys: Iterable[str]) -> list[str]:
        return [_shown(key) for key in self._inner.delete(map(_hidden, keys))]

    def sync(self) -> None:
        self._inner.sync()

    def close(self) -> None:
        self._inner.close()
