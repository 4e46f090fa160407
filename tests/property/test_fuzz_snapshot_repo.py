"""Hostile snapshots and repo infos: each is read, or refused with `FormatError`; nothing else happens.

Real files, and ones with a bit of everything, are changed at random in the flatbuffer inside of them; the changes are
the same in every run. A file that reads is then used: each node, each snapshot, each ref, the whole history and the ops
log, and a repo info is written again.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest

from icefs.errors import FormatError, RefNotFoundError
from icefs.format.config.codec import encode_config_yaml, parse_config, parse_config_yaml
from icefs.format.header import FileType, decode_file, encode_file
from icefs.format.repo.info import encode_repo_info, parse_repo_info
from icefs.format.snapshot.reader import parse_snapshot
from icefs.format.zarr_json import chunk_key_encoding_of
from tests.property.test_fuzz_bulk import mutations, peak_of
from tests.support.config_samples import sample_config
from tests.support.fixture_files import FIXTURES, fixture_files
from tests.support.repo_samples import sample_repo, sample_snapshot

NAME = "some/file"


@dataclass(frozen=True)
class Sample:
    name: str
    file_type: FileType
    spec_version: int
    body: bytes

    @classmethod
    def of(cls, name: str, file_type: FileType, data: bytes) -> "Sample":
        return cls(name, file_type, *decode_file(data, file_type=file_type, name=name))

    def file(self, body: bytes) -> bytes:
        return encode_file(body, file_type=self.file_type, spec_version=self.spec_version, level=1)


def use_snapshot(data: bytes) -> None:
    snapshot = parse_snapshot(data, name=NAME)
    assert len(snapshot.paths) == len(snapshot)
    with suppress(FormatError):
        _ = snapshot.metadata
    for info in snapshot.manifest_files.values():
        assert info.size_bytes is not None
    for path in snapshot.paths:
        with suppress(FormatError):
            node = snapshot.node(path)
            assert node is not None
            assert node.path == path
            chunk_key_encoding_of(node.user_data)
            snapshot.node_by_id(node.id)
    for _ in snapshot.nodes():
        pass


def use_repo_info(data: bytes) -> None:
    repo = parse_repo_info(data, name=NAME)
    for refs in (repo.branches, repo.tags):
        for target in refs.values():
            assert target in repo.snapshots
    with suppress(FormatError):
        _ = repo.metadata
    with suppress(FormatError):
        if repo.config is not None:
            parse_config(repo.config, name=NAME)
    for snapshot_id in repo.snapshots:
        with suppress(FormatError):
            assert repo.snapshots[snapshot_id].id == snapshot_id
        with suppress(FormatError):
            list(repo.ancestry_ids(snapshot_id))
    _ = repo.latest_updates
    with suppress(RefNotFoundError):  # `main` was renamed
        again = parse_repo_info(encode_repo_info(repo), name=NAME)
        assert again.branches == repo.branches
        assert again.latest_updates == repo.latest_updates


USE: dict[FileType, Callable[[bytes], None]] = {
    FileType.SNAPSHOT: use_snapshot,
    FileType.REPO_INFO: use_repo_info,
}


@pytest.fixture(scope="module", name="corpus")
def corpus_fixture() -> list[Sample]:
    found = [
        Sample.of(f"every field, version {version}", FileType.SNAPSHOT, sample_snapshot(version)) for version in (1, 2)
    ]
    found.append(Sample.of("every field", FileType.REPO_INFO, encode_repo_info(sample_repo())))
    snapshots = sorted(fixture_files("snapshots"), key=lambda path: (path.stat().st_size, path.parts[-3:]))
    for path in snapshots[:: len(snapshots) // 5]:
        found.append(Sample.of("/".join(path.parts[-3:]), FileType.SNAPSHOT, path.read_bytes()))
    for path in (FIXTURES / "basic-v2/repo", FIXTURES / "history-v2/repo"):
        found.append(Sample.of("/".join(path.parts[-2:]), FileType.REPO_INFO, path.read_bytes()))
    return found


@pytest.fixture(autouse=True)
def _numpy_is_strict() -> Iterator[None]:
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def outcome(sample: Sample, body: bytes) -> bool:
    """Reads and uses; tells whether it worked. Everything but success and `FormatError` passes through."""
    try:
        USE[sample.file_type](sample.file(body))
    except FormatError as error:
        names_the_file = str(error.facts["file"]).startswith(NAME) and bool(error.facts["reason"])
    else:
        return True
    assert names_the_file
    return False


def test_the_unchanged_files_read(corpus: list[Sample]) -> None:
    assert all(outcome(sample, sample.body) for sample in corpus)
    assert {sample.file_type for sample in corpus} == set(USE)


@pytest.mark.slow
def test_changed_flatbuffers(corpus: list[Sample]) -> None:
    random, refused, total = Random(11), 0, 0
    for sample in corpus:
        count = max(40, min(500, 2_000_000 // len(sample.body)))
        for body in mutations(sample.body, random, count):
            refused += not outcome(sample, body)
            total += 1
    assert total >= 2500
    # Both happen often: otherwise the changes test too little.
    assert total * 0.2 < refused < total * 0.95


def smallest(corpus: list[Sample], file_type: FileType) -> Sample:
    return min((s for s in corpus if s.file_type == file_type), key=lambda sample: len(sample.body))


@pytest.mark.slow
def test_each_word_set_to_the_edges(corpus: list[Sample]) -> None:
    """Every aligned word in turn: no offset or length is forgotten."""
    for name in ("every field, version 1", "every field, version 2", "every field"):
        sample = next(sample for sample in corpus if sample.name == name)
        body = sample.body
        for at in range(0, len(body) - 3, 4):
            value = (0, 0x7FFFFFFF, 0xFFFFFFFF, len(body) - at)[at // 4 % 4]
            outcome(sample, body[:at] + value.to_bytes(4, "little") + body[at + 4 :])


def test_each_truncation(corpus: list[Sample]) -> None:
    for file_type in USE:
        sample = smallest(corpus, file_type)
        for size in range(0, len(sample.body), 3):
            outcome(sample, sample.body[:size])


def test_no_change_makes_a_small_file_allocate_much(corpus: list[Sample]) -> None:
    random = Random(12)
    for sample in corpus[:3]:
        for body in mutations(sample.body, random, 15):
            assert peak_of(lambda body=body, sample=sample: outcome(sample, body)) < 4 << 20


def test_changed_yaml() -> None:
    random, refused, total = Random(13), 0, 0
    text = encode_config_yaml(sample_config())
    for data in mutations(text, random, 60):
        total += 1
        try:
            parse_config_yaml(data, name=NAME)
        except FormatError:
            refused += 1
    assert refused > total * 0.3
