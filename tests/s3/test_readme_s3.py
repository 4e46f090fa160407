"""The README's recipe for S3, followed to the letter but for where the store is and whose keys are used."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import zarr

from icefs.daemon.mountinfo import mount_table
from tests.support.mounting import require_fuse, scratch_directory
from tests.support.readme import recipe, run_recipe


@pytest.fixture
def home():
    require_fuse()
    with scratch_directory() as name:
        yield Path(name)
        for entry in mount_table():
            if entry.mountpoint.startswith(f"{name}/"):
                subprocess.run(["fusermount3", "-uz", entry.mountpoint], check=True)


def test_s3(home, s3_server, s3_prefix):
    run_recipe(recipe("laptop"), home)  # whose repository the recipe copies
    data = np.arange(30.0).reshape(10, 3)
    script = recipe("s3")
    url = f"s3://icefs-tests/{s3_prefix}?endpoint_url={s3_server.endpoint_url}"
    replaced = script.replace("s3://bucket/weather?region=eu-west-1", url).replace("AWS_PROFILE=weather", "AWS_KEYS=1")
    assert replaced.count(url) == 1
    assert "AWS_PROFILE" not in replaced
    keys = s3_server.environment()
    told = run_recipe(replaced, home, **keys)
    assert "committed" in told
    assert keys["AWS_SECRET_ACCESS_KEY"] not in told
    after = f'icefs mount "{url}" ~/s3 --read-only && cp -r ~/s3/branches/main ~/back && icefs umount ~/s3'
    run_recipe(after, home, **keys)
    np.testing.assert_array_equal(zarr.open_array(home / "back/temperature", mode="r")[:], data)
