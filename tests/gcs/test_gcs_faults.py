"""The storage for Google Cloud Storage behind a relay that throttles, breaks off and loses answers."""

import subprocess
import sys

import pytest

from icefs.errors import (
    AccessDeniedError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    ThrottledError,
    UnreachableError,
)
from icefs.storage.gcs.store import GcsStorage
from tests.support.s3_server import FAST

PASSING = ("throttle", "too many", "error", "refuse", "lose")


@pytest.mark.parametrize("fault", PASSING)
def test_each_request_survives_two_faults(shaky, proxy, fault):
    told = []
    shaky.watch_retries(lambda verb, kind: told.append(verb))
    plans = []

    def plan(method):
        plans.append(proxy.plan(fault, method=method, times=2))

    plan("POST")
    version = shaky.put("repo", b"one", create_only=True)
    plan("POST")
    changed = shaky.put("repo", b"two", if_match=version)
    plan("POST")
    shaky.put("chunks/A", b"0123456789")
    plan("POST")
    shaky.copy("repo", "backup")
    plan("GET")
    assert shaky.get("chunks/A", start=2, end=5).data == b"234"
    plan("GET")
    assert shaky.head("repo").version == changed
    plan("GET")
    assert sorted(shaky.list_dir()) == ["backup", "chunks/", "repo"]
    plan("DELETE")
    assert shaky.delete(["chunks/A"]) == []
    assert [plan.fired for plan in plans] == [2] * len(plans)
    assert {info.key: shaky.get(info.key).data for info in shaky.iter_objects()} == {"repo": b"two", "backup": b"two"}
    assert set(told) == {"write", "copy", "read", "list", "delete"}


@pytest.mark.parametrize("times", [1, None])
def test_a_lost_answer_is_settled_by_reading_back(shaky, proxy, times):
    plan = proxy.plan("lose", method="POST", times=times)
    version = shaky.put("repo", b"1", create_only=True)
    assert shaky.head("repo").version == version
    changed = shaky.put("repo", b"2", if_match=version)
    assert shaky.get("repo").data == b"2"
    assert shaky.head("repo").version == changed
    # The second try is refused, and the write-id tells by which write; or no try has an answer.
    assert plan.fired == (1 if times else 2 * FAST.max_tries)


def test_a_lost_write_that_was_overwritten_stays_in_doubt(shaky, gcs_storage, proxy):
    proxy.plan("act", method="POST", action=lambda: gcs_storage.put("repo", b"theirs"))
    with pytest.raises(PreconditionFailedError) as caught:
        shaky.put("repo", b"ours", create_only=True)
    assert caught.value.facts["maybe_written"] is True
    proxy.plan("late", method="POST", times=None)
    with pytest.raises(UnreachableError) as late:
        shaky.put("repo", b"ours", if_match=gcs_storage.head("repo").version)
    assert late.value.facts["maybe_written"] is True
    assert sorted(proxy.land()) == [200] + [412] * 4


def test_a_refusal_is_no_doubt(shaky, gcs_storage):
    gcs_storage.put("repo", b"theirs")
    with pytest.raises(PreconditionFailedError) as caught:
        shaky.put("repo", b"ours", create_only=True)
    assert caught.value.facts["maybe_written"] is False


def test_answers_that_break_off_are_asked_for_again(shaky, proxy):
    shaky.put("a", b"0123456789" * 1000)
    plan = proxy.plan("truncate", method="GET", times=2)
    assert shaky.get("a").data == b"0123456789" * 1000
    assert plan.fired == 2
    listing = proxy.plan("truncate", method="GET")
    assert [info.key for info in shaky.iter_objects()] == ["a"]
    assert listing.fired == 1


def test_what_lasts_is_given_up_and_named(shaky, proxy):
    proxy.plan("throttle", times=None)
    with pytest.raises(ThrottledError, match=r"gs://icefs-tests/.*503") as caught:
        shaky.get("a")
    assert caught.value.facts["tries"] == FAST.max_tries
    proxy.clear()
    proxy.plan("deny", times=None)
    with pytest.raises(AccessDeniedError) as denied:
        shaky.get("a")
    assert denied.value.hint
    assert len(proxy.requests) == 1
    assert shaky.delete(["a"]) == ["a"]


def test_a_missing_bucket_is_no_missing_object(gcs_server):
    storage = GcsStorage("nowhere", "x", gcs_server.options(retry=FAST))
    with pytest.raises(StorageError) as caught:
        list(storage.iter_objects())
    assert not isinstance(caught.value, ObjectNotFoundError)
    assert "bucket" in caught.value.hint
    storage.close()


def test_without_the_extra_one_line_says_what_to_install():
    script = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "google":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from icefs.cli.main import main
sys.exit(main(["log", "gs://bucket/x"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "icefs[gcs]" in done.stderr
    assert "Traceback" not in done.stderr
