"""Directories into a repository in an object store, and out of it."""

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.transfer.directory_import import ImportRequest, import_directory
from tests.support.faulty import FaultyStorage
from tests.unit.transfer.test_directory_export import export, files
from tests.unit.transfer.test_directory_import import Stop, array, read, sample, stop_at_end, write


def test_there_and_back_in_few_requests(s3_storage, tmp_path):
    small = {"many/zarr.json": array([2000])} | {f"many/c/{n}": b"%06d" % n * 200 for n in range(2000)}
    large = {"large/zarr.json": array([2]), "large/c/1": bytes(range(256)) * 80_000}
    keys = sample() | small | large
    source = write(tmp_path / "z", keys)
    WritableRepository.create(s3_storage)
    counting = FaultyStorage(s3_storage)
    repo = WritableRepository.open(counting)
    with pytest.raises(Stop):
        import_directory(repo, ImportRequest(source, tmp_path / "state"), stop_at_end)
    done = import_directory(repo, ImportRequest(source, tmp_path / "state"))
    assert done.stored_chunks == 0
    assert len([call for call in counting.calls if call.key.startswith("chunks/")]) < 10
    assert read(repo) == keys
    counting.clear()
    export(repo, tmp_path / "out")
    assert files(tmp_path / "out") == keys
    assert len([call for call in counting.calls if call.key.startswith("chunks/")]) < 80
