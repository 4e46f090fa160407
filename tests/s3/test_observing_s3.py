"""The reports about a mount of a bucket: requests to the store, no secrets in the log, the doctor."""

import json
from email.utils import formatdate
from time import time

import pytest

from icefs.cli.main import main
from icefs.daemon import mountinfo
from tests.conformance.official import GROUP, array_json, commit, create
from tests.support.bent_store import BentStore
from tests.support.fault_proxy import FaultProxy
from tests.support.mounting import mounted
from tests.support.own_mounts import own_mount_table

KEYS = {"zarr.json": GROUP, "a/zarr.json": array_json((3 << 12,), (1 << 12,)), "a/c/0": bytes(1 << 12)}
KEYS["a/c/2"] = b"\2" * (1 << 12)


@pytest.fixture
def place(s3_server, s3_storage, s3_prefix, tmp_path, monkeypatch):
    commit(create(tmp_path / "repo", 2), "first", KEYS)
    for path in (tmp_path / "repo").rglob("*"):
        if path.is_file():
            s3_storage.put(path.relative_to(tmp_path / "repo").as_posix(), path.read_bytes())
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://icefs-tests/{s3_prefix}?endpoint_url={s3_server.endpoint_url}"


def test_requests_to_a_bucket_are_counted_and_the_log_has_no_secrets(place, s3_server, capsys, tmp_path):
    secret = s3_server.environment()["AWS_SECRET_ACCESS_KEY"]
    key = s3_server.environment()["AWS_ACCESS_KEY_ID"]
    options = {"log_level": "debug", "may_complain": True, "state_dir": str(tmp_path / "trees"), "upload_after_s": 0.0}
    with mounted(place, branch="main", **options) as mount:
        assert (mount / "a/c/0").read_bytes() == KEYS["a/c/0"]
        (mount / "a/c/1").write_bytes(b"\1" * (1 << 12))
        store = mount.control("stats.json")["store"]
        assert store["requests"]["get"]["count"] >= 3
        assert store["read_bytes"] > 1 << 12
        metrics = (mount / ".icefs/metrics").read_text()
        assert 'icefs_store_requests_total{op="get",object="chunks"' in metrics
        log = mount.log.read_text()
        assert "DEBUG" in log
        assert secret not in log
        assert key not in log
    capsys.readouterr()
    assert main(["sessions", "--state-dir", str(tmp_path / "trees"), "--json"]) == 0
    [session] = json.loads(capsys.readouterr().out)
    assert session["state"] == "unmounted"
    command = ["sessions", "commit", session["id"], "-m", "left", "--repo", place]
    assert main([*command, "--state-dir", str(tmp_path / "trees")]) == 0, capsys.readouterr()
    capsys.readouterr()
    assert main(["log", place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["message"] == "left"


def retries_logged(mount):
    lines = [json.loads(line) for line in mount.log.read_text().splitlines()]
    return [line for line in lines if line["logger"] == "icefs.storage.retry"]


def test_tries_are_lines_and_numbers_and_giving_up_is_a_warning(place, s3_server, s3_prefix, tmp_path):
    with FaultProxy(s3_server.endpoint_url) as proxy:
        far = place.replace(s3_server.endpoint_url, proxy.endpoint_url) + "&max_tries=3"
        options = {"branch": "main", "log_format": "json", "may_complain": True, "cache_size": 0, "memory_bytes": 0}
        with mounted(far, state_dir=str(tmp_path / "trees"), **options) as mount:
            proxy.plan("throttle", method="GET", path="/chunks/", times=2)
            assert (mount / "a/c/0").read_bytes() == KEYS["a/c/0"]
            [first] = retries_logged(mount)  # the second is counted
            assert (first["level"], first["mount"], first["branch"]) == ("info", str(mount.path), "main")
            told = first["facts"]
            assert told["object"].startswith(f"s3://icefs-tests/{s3_prefix}/chunks/")
            assert {name: told[name] for name in ("operation", "reason", "attempt", "max_attempts")} == {
                "operation": "read",
                "reason": "throttled (SlowDown 503)",
                "attempt": 1,
                "max_attempts": 3,
            }
            assert told["wait_s"] > 0
            assert mount.control("stats.json")["store"]["retries"] == {"read": {"throttled": 2}}
            line = 'icefs_store_retries_total{action="read",reason="throttled",'
            assert f'{line}mountpoint="{mount.path}"}} 2' in (mount / ".icefs/metrics").read_text()

            proxy.plan("refuse", path="/chunks/", times=None)
            with pytest.raises(OSError, match="Input/output error"):
                (mount / "a/c/2").read_bytes()
            *_, last = retries_logged(mount)
            assert last["level"] == "warning"
            assert last["facts"]["attempt"] == last["facts"]["max_attempts"] == 3
            assert last["facts"]["reason"].startswith("unreachable (")
            log = mount.log.read_text()
            for secret in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
                assert s3_server.environment()[secret] not in log
            assert "Signature" not in log


def test_a_command_whose_store_does_not_answer_says_so_once(place, s3_server, capsys):
    with FaultProxy(s3_server.endpoint_url) as proxy:
        proxy.plan("throttle", times=None)
        assert main(["log", place.replace(s3_server.endpoint_url, proxy.endpoint_url) + "&max_tries=2"]) == 7
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_doctor_of_a_bucket(place, s3_server, monkeypatch, capsys):
    monkeypatch.setattr(mountinfo, "mount_table", own_mount_table)

    def doctor(location, code):
        capsys.readouterr()
        assert main(["doctor", location, "--json"]) == code
        told = json.loads(capsys.readouterr().out)["checks"]
        return {one["check"]: one for one in told if one["check"] not in ("mounts", "versions", "fuse")}

    told = doctor(place, 0)
    assert {told[name]["status"] for name in ("endpoint", "credentials", "latency", "clock", "repository")} == {"ok"}
    nothing = place.replace("/test/", "/nothing-here/")
    assert "there is no repository" in doctor(nothing, 1)["store"]["message"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
    assert doctor(place, 1)["credentials"]["status"] == "problem"
    gone = place.replace(s3_server.endpoint_url, "http://127.0.0.1:9")
    assert doctor(gone, 1)["endpoint"]["status"] == "problem"


class Dated(BentStore):
    """A store, or a proxy in front of one, whose clock differs."""

    date = ""

    def take(self, asked):
        answer = super().take(asked)
        if self.date:
            answer.headers["Date"] = self.date
        return answer


@pytest.mark.parametrize("through_proxy", [False, True])
@pytest.mark.parametrize(
    ("behind_s", "status"), [(0, "ok"), (300, "warning"), (3600, "problem"), (None, "warning"), ("soon", "warning")]
)
def test_a_clock_that_differs_from_the_stores(monkeypatch, capsys, behind_s, status, through_proxy):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Dated() as store:
        endpoint = store.url
        if through_proxy:
            endpoint = "http://store.invalid"
            monkeypatch.setenv("http_proxy", store.url)
            monkeypatch.delenv("no_proxy", raising=False)
        store.date = formatdate(time() - behind_s, usegmt=True) if isinstance(behind_s, int) else behind_s or ""
        main(["doctor", f"s3://bucket/p?endpoint_url={endpoint}&region=us-east-1", "--json"])
    [found] = [check for check in json.loads(capsys.readouterr().out)["checks"] if check["check"] == "clock"]
    assert found["status"] == status


def test_a_store_that_is_away_has_no_clock(capsys):
    main(["doctor", "s3://bucket/p?endpoint_url=http://127.0.0.1:1&anonymous=true", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [(check["check"], check["status"]) for check in checks[-2:]] == [
        ("endpoint", "problem"),
        ("clock", "warning"),
    ]
    assert "http://127.0.0.1:1" in checks[-1]["message"]
