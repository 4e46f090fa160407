"""Collection and the programs at work, on a bucket: some interleavings of `tests/property/test_collection.py`."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk
import pytest

from icefs.storage.s3.store import S3Storage
from tests.support.collecting import World, run_uploads
from tests.support.s3_server import SeaweedServer
from tests.support.soak import depth

SEEDS = range(depth(2, 30))

icechunk.set_logs_filter("off")


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_commits_can_be_read_with_any_collector(
    s3_server: SeaweedServer, s3_storage: S3Storage, s3_prefix: str, tmp_path: Path, seed: int, spec_version: int
) -> None:
    keys = s3_server.environment()

    def collect(cutoff: int) -> None:
        storage = icechunk.s3_storage(
            bucket="icefs-tests",
            prefix=s3_prefix,
            endpoint_url=s3_server.endpoint_url,
            region="us-east-1",
            allow_http=True,
            force_path_style=True,
            access_key_id=keys["AWS_ACCESS_KEY_ID"],
            secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=cutoff)
        icechunk.Repository.open(storage).garbage_collect(when)

    world = World(s3_storage, random.Random(seed), tmp_path, spec_version=spec_version, collect_officially=collect)
    world.run(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_uploads_in_the_background_are_made_again(s3_storage: S3Storage, tmp_path: Path, seed: int) -> None:
    run_uploads(s3_storage, random.Random(seed), tmp_path / "state", 15)
