"""Random reads and writes of one file, in every way that a program can do them, against a `bytearray`."""

import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

MAX_BYTES = 300_000
_PAGE = 4096


class Exerciser:
    """One file, and what its content must be.

    Each descriptor is opened again now and then, and which one an operation takes is drawn, too.

    Attributes:
        content: What the file holds.
    """

    def __init__(self, path: Path, content: bytes, seed: int, *, direct: bool = False, makes_it: bool = False) -> None:
        """Takes a file and what it holds; with `makes_it` there is none yet, and its maker goes on writing."""
        self.path = path
        self.content = bytearray(content)
        self.log: list[str] = []
        self._seed = seed
        self._random = random.Random(seed)
        # Two that read and write, one that appends, and perhaps one past the page cache.
        self._flags = [os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_APPEND] + [os.O_RDWR | os.O_DIRECT] * direct
        self._fds: list[int] = []
        self._maker = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644) if makes_it else -1
        self._open()
        self._operations: list[tuple[int, Callable[[], str]]] = [
            (30, self._pwrite),
            (10, self._append),
            (8, self._ftruncate),
            (4, self._truncate),
            (15, self._map_write),
            (10, self._map_read),
            (40, self._pread),
            (5, self._reopen),
            (2, self._fsync),
            (1, self._start_over),
            (2, self._copy),
        ]
        self._weights = [weight for weight, _ in self._operations]

    def _open(self) -> None:
        self._fds = [os.open(self.path, flags) for flags in self._flags]

    def close(self) -> None:
        """Closes all descriptors."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self.close_maker()

    def close_maker(self) -> None:
        """Closes the maker's descriptor."""
        if self._maker >= 0:
            os.close(self._maker)
            self._maker = -1

    def run(self, count: int, check_every: int = 200) -> None:
        """Does so many operations; looks at the whole file now and then."""
        if not self._fds:
            self._open()
        for number in range(count):
            [(_, operation)] = self._random.choices(self._operations, self._weights)
            self.log.append(operation())
            size = os.fstat(self._random.choice(self._fds)).st_size
            assert size == len(self.content), self.explain(f"size {size}, {len(self.content)} expected")
            if number % check_every == 0:
                self.check()
        self.check()

    def check(self) -> None:
        """Compares the whole file, as a program reads it that opens it now."""
        self._compare("all", self.path.read_bytes(), 0, len(self.content))

    def explain(self, what: str) -> str:
        """Says how to see a failure again."""
        recent = "\n  ".join(self.log[-25:])
        return f"{what}; seed {self._seed}, after {len(self.log)} operations:\n  {recent}"

    def _compare(self, how: str, found: bytes, offset: int, size: int) -> None:
        expected = bytes(self.content[offset : offset + size])
        if found != expected:
            place = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), -1)
            raise AssertionError(
                self.explain(f"{how}: {len(found)} bytes, {len(expected)} expected, other from {offset + place} on")
            )

    def _place(self) -> tuple[int, int]:
        """Draws an offset and a size."""
        rng = self._random
        size = rng.choice([1, 2, 100, _PAGE, rng.randrange(1, 30_000)])
        offset = rng.choice([0, len(self.content), rng.randrange(MAX_BYTES), rng.randrange(len(self.content) + 1)])
        if rng.random() < 0.3:
            offset -= offset % _PAGE
        return min(offset, MAX_BYTES - size), size

    def _put(self, offset: int, data: bytes) -> None:
        if len(self.content) < offset:
            self.content.extend(bytes(offset - len(self.content)))
        self.content[offset : offset + len(data)] = data

    def _pwrite(self) -> str:
        offset, size = self._place()
        data = self._random.randbytes(size)
        which = self._random.choice([at for at, flags in enumerate(self._flags) if not flags & os.O_APPEND])
        if self._maker >= 0 and self._random.random() < 0.5:
            assert os.pwrite(self._maker, data, offset) == size
            which = -1
        elif self._flags[which] & os.O_DIRECT:
            offset -= offset % _PAGE
            size = -(-size // _PAGE) * _PAGE
            data = self._random.randbytes(size)
            with mmap.mmap(-1, size) as aligned:
                aligned[:] = data
                assert os.pwrite(self._fds[which], aligned, offset) == size
        else:
            assert os.pwrite(self._fds[which], data, offset) == size
        self._put(offset, data)
        return f"pwrite({which}, {offset}, {size})"

    def _append(self) -> str:
        data = self._random.randbytes(self._random.randrange(1, 3000))
        if len(self.content) + len(data) > MAX_BYTES:
            return "append nothing"
        assert os.write(self._fds[2], data) == len(data)
        self._put(len(self.content), data)
        return f"append({len(data)})"

    def _resize(self, size: int) -> None:
        self._put(size, b"")
        del self.content[size:]

    def _ftruncate(self) -> str:
        size, _ = self._place()
        which = self._random.randrange(len(self._fds))
        os.ftruncate(self._fds[which], size)
        self._resize(size)
        return f"ftruncate({which}, {size})"

    def _truncate(self) -> str:
        size = self._random.randrange(len(self.content) + 100)
        os.truncate(self.path, size)
        self._resize(size)
        return f"truncate({size})"

    def _map_write(self) -> str:
        length = len(self.content)
        if not length:
            return "map nothing"
        start = self._random.randrange(length)
        data = self._random.randbytes(min(length - start, self._random.choice([1, 50, 9000])))
        which = self._random.randrange(len(self._fds))
        flush = self._random.random() < 0.3
        with mmap.mmap(self._fds[which], length, mmap.MAP_SHARED) as mapped:
            mapped[start : start + len(data)] = data
            if flush:
                mapped.flush()
        self._put(start, data)
        return f"map_write({which}, {start}, {len(data)}, flush={flush})"

    def _map_read(self) -> str:
        length = len(self.content)
        if not length:
            return "map nothing"
        which = self._random.randrange(len(self._fds))
        flags = self._random.choice([mmap.MAP_SHARED, mmap.MAP_PRIVATE])
        with mmap.mmap(self._fds[which], length, flags, mmap.PROT_READ) as mapped:
            self._compare("map_read", mapped[:], 0, length)
        return f"map_read({which})"

    def _pread(self) -> str:
        offset, size = self._place()
        which = self._random.randrange(len(self._fds))
        if self._flags[which] & os.O_DIRECT:
            offset -= offset % _PAGE
            size = -(-size // _PAGE) * _PAGE
            with mmap.mmap(-1, size) as aligned:
                found = aligned[: os.preadv(self._fds[which], [aligned], offset)]
        else:
            found = os.pread(self._fds[which], size, offset)
        self._compare(f"pread({which}, {offset}, {size})", found, offset, size)
        return f"pread({which}, {offset}, {size})"

    def _reopen(self) -> str:
        which = self._random.randrange(len(self._fds))
        os.close(self._fds[which])
        self._fds[which] = os.open(self.path, self._flags[which])
        return f"reopen({which})"

    def _fsync(self) -> str:
        which = self._random.randrange(len(self._fds))
        self._random.choice([os.fsync, os.fdatasync])(self._fds[which])
        return f"fsync({which})"

    def _start_over(self) -> str:
        os.close(os.open(self.path, os.O_WRONLY | os.O_TRUNC))
        self.content.clear()
        return "truncated by open"

    def _copy(self) -> str:
        """Copies within the file, where source and target do not overlap."""
        half = len(self.content) // 2
        if not half:
            return "copy nothing"
        size = self._random.randrange(1, half + 1)
        done = os.copy_file_range(self._fds[0], self._fds[1], size, 0, half)
        assert 0 < done <= size
        self._put(half, bytes(self.content[:done]))
        return f"copy({half}, {done})"
