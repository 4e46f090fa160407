"""Storages against a dictionary: random operations of two clients, and every answer foretold."""

import shutil
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from icefs.errors import InvalidObjectSizeError, ObjectNotFoundError, PreconditionFailedError
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from tests.support.hex_storage import HexStorage

# Few names, so that operations meet; files never stand where directories do, as in a repository.
KEYS = st.sampled_from(["repo", "a/x", "a/y", "a/b/z", "refs/branch.ü#~/ref.json", "refs/branch.ü/ref.json"])
DATA = st.binary(max_size=12)
CLIENTS = st.integers(0, 1)


class StorageMachine(RuleBasedStateMachine):
    """`model` holds each key's bytes and version; `versions` are all that were ever current."""

    versions = Bundle("versions")

    def make(self):
        storage = MemoryStorage()
        return (storage, storage)

    def __init__(self):
        super().__init__()
        self.clients = self.make()
        self.model: dict[str, tuple[bytes, str]] = {}
        self.seen: set[str] = set()

    def wrote(self, key, data, version):
        assert version not in self.seen
        self.seen.add(version)
        self.model[key] = (data, version)
        return version

    @rule(target=versions, client=CLIENTS, key=KEYS, data=DATA)
    def put(self, client, key, data):
        return self.wrote(key, data, self.clients[client].put(key, data))

    @rule(client=CLIENTS, key=KEYS, data=DATA)
    def create(self, client, key, data):
        try:
            version = self.clients[client].put(key, data, create_only=True)
        except PreconditionFailedError:
            assert key in self.model
        else:
            assert key not in self.model
            self.wrote(key, data, version)

    @rule(target=versions, client=CLIENTS, key=KEYS, data=DATA, expected=versions)
    def replace_a_version(self, client, key, data, expected):
        current = self.model.get(key, (b"", None))[1]
        try:
            version = self.clients[client].put(key, data, if_match=expected)
        except PreconditionFailedError:
            assert current != expected
            return expected
        assert current == expected
        return self.wrote(key, data, version)

    @rule(target=versions, client=CLIENTS, key=KEYS, data=DATA)
    def replace_the_current_version(self, client, key, data):
        if key not in self.model:
            return "none"
        return self.wrote(key, data, self.clients[client].put(key, data, if_match=self.model[key][1]))

    @rule(client=CLIENTS, source=KEYS, onto=KEYS, conditional=st.booleans())
    def copy(self, client, source, onto, conditional):
        storage = self.clients[client]
        expected = self.model.get(source, (b"", "none"))[1] if conditional else None
        try:
            storage.copy(source, onto, if_match=expected)
        except ObjectNotFoundError:
            assert source not in self.model
        else:
            # A hard link shares its source's version.
            self.model[onto] = (self.model[source][0], storage.head(onto).version)

    @rule(client=CLIENTS, source=KEYS, onto=KEYS, expected=versions)
    def copy_a_version(self, client, source, onto, expected):
        current = self.model.get(source, (b"", None))[1]
        try:
            self.clients[client].copy(source, onto, if_match=expected)
        except ObjectNotFoundError:
            assert current is None
        except PreconditionFailedError:
            assert current not in (None, expected)
        else:
            assert current == expected
            self.model[onto] = (self.model[source][0], self.clients[client].head(onto).version)

    @rule(client=CLIENTS, keys=st.lists(KEYS, max_size=3))
    def delete(self, client, keys):
        assert self.clients[client].delete(keys) == []
        for key in keys:
            self.model.pop(key, None)

    @rule(client=CLIENTS, key=KEYS, start=st.integers(0, 14), length=st.none() | st.integers(0, 14))
    def get(self, client, key, start, length):
        end = None if length is None else start + length
        data, version = self.model.get(key, (None, None))
        try:
            found = self.clients[client].get(key, start=start, end=end)
        except ObjectNotFoundError:
            assert data is None
        except InvalidObjectSizeError:
            assert len(data) < (start if end is None else end)
        else:
            assert (found.data, found.version) == (data[start:end], version)
            assert max(start, end or 0) <= len(data)

    @rule(client=CLIENTS, key=KEYS, known=versions)
    def get_if_changed(self, client, key, known):
        data, version = self.model.get(key, (None, None))
        try:
            found = self.clients[client].get_if_changed(key, known)
        except ObjectNotFoundError:
            assert data is None
        else:
            assert found is None if version == known else (found.data, found.version) == (data, version)

    @rule(client=CLIENTS)
    def sync(self, client):
        self.clients[client].sync()

    @invariant()
    def listings_agree(self):
        for storage in self.clients:
            listed = {info.key: (info.size_bytes, info.version) for info in storage.iter_objects()}
            assert listed == {key: (len(data), version) for key, (data, version) in self.model.items()}
            assert {name for name in storage.list_dir("a/") if not name.endswith("/")} == {
                key[2:] for key in self.model if key in ("a/x", "a/y")
            }


class LocalMachine(StorageMachine):
    def make(self):
        self.directory = tempfile.mkdtemp(prefix="icefs-storage-")
        return (LocalStorage(self.directory), LocalStorage(self.directory, durable=False))

    def teardown(self):
        shutil.rmtree(self.directory)


class HexMachine(StorageMachine):
    def make(self):
        storage = HexStorage(MemoryStorage())
        return (storage, storage)


TestMemoryMachine = StorageMachine.TestCase
TestLocalMachine = LocalMachine.TestCase
TestHexMachine = HexMachine.TestCase
for case in (TestMemoryMachine, TestLocalMachine, TestHexMachine):
    case.settings = settings(stateful_step_count=30)
