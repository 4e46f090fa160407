"""Keys: their sources, renewal while mounted, reports of wrong ones, and that none is ever shown."""

import errno
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.errors import AccessDeniedError
from icefs.storage.s3.store import S3Storage
from icefs.storage.url import open_storage
from tests.conformance.official import GROUP, array_json
from tests.support.fake_metadata import FakeMetadata
from tests.support.fault_proxy import FaultProxy
from tests.support.mounting import mounted, wait_until
from tests.support.s3_server import READER, SeaweedServer

ICEFS = Path(sys.executable).with_name("icefs")
CHUNK = 4000
FORBIDDEN = 6


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment in which nothing leads to keys."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


@pytest.fixture
def place(s3_storage: S3Storage, s3_prefix: str, proxy: FaultProxy) -> str:
    """The location of a repository behind the proxy."""
    repository = WritableRepository.create(s3_storage)
    with repository.transaction("main", message="start") as session:
        session.nodes.put("/", GROUP)
        session.nodes.put("/a", array_json((4 * CHUNK,), (CHUNK,)))
        for number in range(4):
            session.chunks.set("/a", (number,), bytes([number]) * CHUNK)
    return f"s3://icefs-tests/{s3_prefix}?endpoint_url={proxy.endpoint_url}&max_tries=2"


# --- where keys come from ---


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    """A service that takes any keys, also those with a session token that nobody issued."""
    from moto.server import ThreadedMotoServer  # lazy: half a second

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def signed_with(proxy: FaultProxy) -> list[tuple[str, str | None]]:
    """Returns the key ids and session tokens of the requests."""
    found = []
    for request in proxy.requests:
        headers = {name.lower(): value for name, value in request.headers.items()}
        found.append(
            (headers["authorization"].partition("Credential=")[2].split("/")[0], headers.get("x-amz-security-token"))
        )
    return found


@pytest.mark.parametrize("source", ["web identity", "instance role"])
def test_keys_of_a_machine_in_a_cloud(moto_url: str, bare: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    with FakeMetadata() as metadata, FaultProxy(moto_url) as proxy:
        if source == "instance role":
            bare.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        else:
            (tmp_path / "token").write_text("the-web-identity-token")
            bare.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/icefs")
            bare.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
            bare.setenv("AWS_ENDPOINT_URL_STS", metadata.url)
            bare.setenv("AWS_REGION", "us-east-1")
        storage = open_storage(f"s3://no-such-bucket/{source.split()[0]}?endpoint_url={proxy.endpoint_url}")
        with pytest.raises(Exception, match="NoSuchBucket"):
            storage.put("a", b"1")
        for _ in range(3):
            with pytest.raises(Exception, match="NoSuchBucket"):
                storage.get("a")
        assert signed_with(proxy) == [("ICEFSFAKEKEY0", "fake-token")] * 4
        assert metadata.given == ["ICEFSFAKEKEY0"]
        if source == "web identity":
            assert metadata.asked[0]["WebIdentityToken"] == "the-web-identity-token"
        storage.close()


def test_no_keys_where_a_token_is_refused(bare: pytest.MonkeyPatch, tmp_path: Path, proxy: FaultProxy) -> None:
    bare.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/icefs")
    bare.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    (tmp_path / "token").write_text("the-web-identity-token")
    bare.setenv("AWS_ENDPOINT_URL_STS", proxy.endpoint_url)
    bare.setenv("AWS_REGION", "us-east-1")
    proxy.plan("deny", times=None)
    storage = open_storage(f"s3://icefs-tests/x?endpoint_url={proxy.endpoint_url}")
    with pytest.raises(AccessDeniedError) as caught:
        storage.get("a")
    assert caught.value.hint
    assert "the-web-identity-token" not in f"{caught.value} {caught.value.hint} {caught.value.facts}"


# --- while mounted ---


def process_profile(tmp_path: Path, lifetime_s: int) -> Path:
    """Makes a profile whose keys come from a program, and expire; returns the file with a line for each call."""
    program, calls = tmp_path / "keys", tmp_path / "calls"
    keys = f'"AccessKeyId": "{READER.access_key_id}", "SecretAccessKey": "{READER.secret_access_key}"'
    program.write_text(
        f"""#!/bin/sh
echo called >> {calls}
expires=$(date -u -d "+{lifetime_s} seconds" +%Y-%m-%dT%H:%M:%SZ)
echo '{{"Version": 1, {keys}, "Expiration": "'$expires'"}}'
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "config").write_text(f"[profile lab]\ncredential_process = {program}\n")
    return calls


def test_keys_that_expire_are_renewed_while_mounted(place: str, bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = process_profile(tmp_path, 2)
    bare.setenv("AWS_PROFILE", "lab")
    with mounted(place, branch="main", read_only=True) as mount:
        assert (mount / "a/c/0").read_bytes() == bytes([0]) * CHUNK
        before = len(calls.read_text().splitlines())
        time.sleep(2)
        assert (mount / "a/c/3").read_bytes() == bytes([3]) * CHUNK
        mount.refresh()
        assert len(calls.read_text().splitlines()) > before


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("#!/bin/sh\necho FwoGZXIvSECRETTOKEN >&2; exit 3\n", "credential_process failed"),
        (None, "credential_process cannot be run: No such file"),
        ("#!/bin/sh\necho FwoGZXIvSECRETTOKEN\n", "does not print the JSON"),
    ],
)
def test_a_program_that_stops_giving_keys_while_mounted(
    place: str, bare: pytest.MonkeyPatch, tmp_path: Path, program: str | None, message: str
) -> None:
    """Reading lacks a permission then, the log says why without what the program said, and it is asked again."""
    process_profile(tmp_path, 2)
    bare.setenv("AWS_PROFILE", "lab")
    keys = tmp_path / "keys"
    good = keys.read_text()
    with mounted(place, branch="main", read_only=True, cache_size=1 << 20, may_complain=True) as mount:
        assert (mount / "a/c/0").read_bytes() == bytes([0]) * CHUNK
        if program is None:
            keys.rename(tmp_path / "gone")
        else:
            keys.write_text(program)
        with pytest.raises(PermissionError):
            (mount / "a/c/3").read_bytes()
        assert any(message in line for line in mount.complaints())
        assert message in json.dumps(mount.control("stats.json")["failures"])
        assert "SECRETTOKEN" not in mount.log.read_text()
        if program is None:
            (tmp_path / "gone").rename(keys)
        keys.write_text(good)
        assert (mount / "a/c/3").read_bytes() == bytes([3]) * CHUNK


def test_expired_and_wrong_keys_are_told(
    place: str, s3_server: SeaweedServer, bare: pytest.MonkeyPatch, tmp_path: Path, proxy: FaultProxy
) -> None:
    for name, value in s3_server.environment().items():
        bare.setenv(name, value)
    with mounted(place, branch="main", state_dir=str(tmp_path / "state"), may_complain=True) as mount:
        assert (mount / "a/c/0").read_bytes() == bytes([0]) * CHUNK
        proxy.plan("expire", times=None)
        with pytest.raises(PermissionError):
            (mount / "a/c/1").read_bytes()
        assert any("ExpiredToken" in line for line in mount.complaints())
        assert "ExpiredToken" in json.dumps(mount.control("stats.json")["failures"])
        (mount / "a/c/2").write_bytes(b"n" * CHUNK)
        with pytest.raises(OSError) as caught:
            (mount / ".icefs/commit").write_text("expired\n")
        assert caught.value.errno == errno.EACCES
        assert "ExpiredToken" in json.loads((mount / ".icefs/commit").read_text())["message"]
        done = icefs("commit", "-m", "expired", mount.path)
        assert done.returncode == FORBIDDEN
        assert "ExpiredToken" in done.stderr
        assert "session token has expired" in done.stderr
        proxy.clear()
        assert icefs("commit", "-m", "renewed", mount.path).returncode == 0
    bare.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    (tmp_path / "mnt").mkdir()
    for command in (("log", place), ("mount", place, tmp_path / "mnt")):
        done = icefs(*command)
        assert done.returncode == FORBIDDEN, done.stderr
        assert "secret key does not fit" in done.stderr
        assert len(done.stderr.splitlines()) <= 2


def icefs(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([ICEFS, *map(str, arguments)], check=False, capture_output=True, text=True)


def test_keys_are_nowhere_to_be_seen(
    place: str, s3_server: SeaweedServer, bare: pytest.MonkeyPatch, tmp_path: Path, proxy: FaultProxy
) -> None:
    for name, value in s3_server.environment().items():
        bare.setenv(name, value)
    bare.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    secrets = [s3_server.environment()[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    options = {"state_dir": str(tmp_path / "state"), "log_level": "debug", "cache_dir": str(tmp_path / "cache")}
    shown: list[str] = []
    with mounted(place, may_complain=True, cache_size=1 << 20, upload_after_s=0.05, pack_size=0, **options) as mount:
        tree = mount / "branches/main"
        (tree / "a/c/2").write_bytes(b"n" * CHUNK)
        wait_until(lambda: mount.control("status.json", "branches/main")["background"]["stored"] == 1, "an upload")
        for fault in ("deny", "refuse", "expire"):
            proxy.plan(fault, times=None)
            with pytest.raises(OSError):
                (tree / "a/c/1").read_bytes()
            done = icefs("commit", "-m", "x", tree)
            assert done.returncode != 0
            shown += [done.stdout, done.stderr]
            proxy.clear()
        processes = subprocess.run(["ps", "axww", "-o", "args"], check=True, capture_output=True, text=True).stdout
        assert str(mount.path) in processes or "icefs" in processes
        shown += [processes, Path("/proc/mounts").read_text(), mount.log.read_text()]
        for path in (*(mount / ".icefs").iterdir(), *(tree / ".icefs").iterdir()):
            if path.is_file() and path.name != "rpc":
                shown.append(path.read_text())
        assert icefs("commit", "-m", "x", tree).returncode == 0
        shown += [done.stdout for done in (icefs("info", tree), icefs("info", place), icefs("status", tree))]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            shown.append(path.read_bytes().decode(errors="replace"))
    assert not [secret for secret in secrets for text in shown if secret in text]
