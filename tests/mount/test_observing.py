"""What a mount tells of itself: logs, metrics, the access log; on real mounts."""

import json
import os
import socket
import urllib.request
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from icefs.errors import InvalidInputError
from tests.support.mounting import mounted, wait_until
from tests.support.zarr_documents import ARRAY

GROUP = b'{"zarr_format": 3, "node_type": "group"}'


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    from icefs.engine.write.repository import WritableRepository
    from icefs.storage.local.store import LocalStorage

    place = tmp_path_factory.mktemp("observing") / "repo"
    storage = LocalStorage(place)
    WritableRepository.create(storage).close()
    storage.close()
    return place


def test_a_mount_in_numbers_and_lines(repo, tmp_path):
    port = free_port()
    options = {"branch": "main", "metrics": str(port), "log_format": "json", "state_dir": str(tmp_path / "trees")}
    with mounted(repo, **options) as mount:
        (mount / "zarr.json").write_bytes(GROUP)
        (mount / "a").mkdir()
        (mount / "a/zarr.json").write_bytes(ARRAY)
        assert (mount / "a/zarr.json").read_bytes() == ARRAY
        with pytest.raises(FileNotFoundError):
            (mount / "nothing").stat()
        staged = mount.control("stats.json")
        assert staged["branches"]["main"]["staged_files"] == 2
        assert staged["branches"]["main"]["staged_bytes"] == len(GROUP) + len(ARRAY)
        [done] = mount.rpc({"op": "commit", "message": "first"})[-1:]
        assert done["type"] == "result", done
        [failed] = mount.rpc({"op": "commit", "message": "second"})[-1:]
        assert failed["kind"] == "no-changes-to-commit"

        stats = mount.control("stats.json")
        assert stats["written_bytes"] >= len(GROUP) + len(ARRAY)
        assert stats["commits"]["commit"]["outcomes"] == {"success": 1, "no-changes-to-commit": 1}
        assert stats["store"]["requests"]["put"]["count"] >= 3
        assert stats["store"]["written_bytes"] > 0
        assert stats["branches"]["main"]["staged_files"] == 0
        assert stats["process"]["open_fds"] > 3

        accesses = mount.rpc({"op": "accesses"})[0]["accesses"]
        seen = {(one["op"], one["path"], one["result"]) for one in accesses}
        assert {("create", "zarr.json", "ok"), ("mkdir", "a", "ok"), ("create", "a/zarr.json", "ok")} <= seen
        [write] = [one for one in accesses if one["op"] == "write" and one["path"] == "a/zarr.json"]
        assert (write["bytes"], write["result"]) == (len(ARRAY), "ok")
        assert "mkdir" in (mount / ".icefs/accesslog").read_text()
        assert mount.rpc({"op": "accesses", "limit": -1})[0]["type"] == "error"

        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = answer.read().decode()
        families = {family.name for family in text_string_to_metric_families(text)}
        assert {"icefs_operations", "icefs_commit_duration_seconds", "icefs_store_requests"} <= families
        assert families == {f.name for f in text_string_to_metric_families((mount / ".icefs/metrics").read_text())}
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10).read() == b"ok\n"
        for path, method, code in (("/", "GET", 404), ("/metrics", "POST", 405)):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
            with pytest.raises(HTTPError) as refused:
                urllib.request.urlopen(request, timeout=10)
            assert refused.value.code == code
            refused.value.close()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as rude:
            rude.sendall(b"\x00\xff\r\n\r\n")
            assert rude.recv(100).startswith(b"HTTP/1.1 405")
        with pytest.raises(InvalidInputError, match="metrics cannot be served"), mounted(repo, metrics=str(port)):
            pass

        lines = [json.loads(line) for line in mount.log.read_text().splitlines()]
        assert all((line["mount"], line["branch"]) == (str(mount.path), "main") for line in lines)
        assert lines[0]["level"] == "info"


def test_the_log_level_changes_at_run_time_and_the_file_may_be_rotated(repo):
    with mounted(repo) as mount:
        assert mount.rpc({"op": "log-level"}) == [{"type": "result", "level": "info", "before": "info"}]
        mount.log.rename(mount.log.with_name("log.1"))
        assert mount.rpc({"op": "log-level", "level": "debug"})[0]["level"] == "debug"
        (mount / "branches").stat()
        list((mount / "branches/main").iterdir())
        text = mount.log.read_text()
        assert "the log level is debug now; it was info" in text
        assert "DEBUG icefs.vfs.observe.access_log" in text
        assert "opendir /branches/main" in text
        assert mount.rpc({"op": "log-level", "level": "warning"})[0]["before"] == "debug"
        quiet = len(mount.log.read_text().splitlines())
        list((mount / "branches/main").iterdir())
        assert len(mount.log.read_text().splitlines()) == quiet
        assert mount.rpc({"op": "log-level", "level": "loud"})[0]["type"] == "error"
        assert "serves" in mount.log.with_name("log.1").read_text()


def test_lag_is_measured(repo):
    with mounted(repo) as mount:
        wait_until(lambda: "icefs_event_loop_lag_seconds_count" in (mount / ".icefs/metrics").read_text(), "a tick")
        assert 0 <= mount.control("stats.json")["event_loop"]["longest_lag_us"] < 30e6
        assert os.path.ismount(mount.path)
