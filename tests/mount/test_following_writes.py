"""A branch that others commit to just when somebody begins to write to it."""

import threading
import time

from icefs.daemon.options import MountOptions
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from tests.conformance.official import GROUP, loose_array_json
from tests.support.mounting import Mount, require_fuse, run_daemon, scratch_directory, unmount

SLOW = """
import time
from icefs.vfs.branches import writable_branch
recover = writable_branch.recover
def recover_slowly(branch, work, repository):
    time.sleep(0.8)
    recover(branch, work, repository)
writable_branch.recover = recover_slowly
"""


def test_a_branch_does_not_move_while_its_working_tree_is_opened(tmp_path):
    require_fuse()
    repository = WritableRepository.create(LocalStorage(str(tmp_path / "repo")))
    with repository.transaction("main", message="start") as session:
        session.nodes.put("/", GROUP)
        session.nodes.put("/a", loose_array_json((9,), (1,)))
    with scratch_directory() as scratch:
        place, log = tmp_path / "mnt", tmp_path / "log"
        place.mkdir()
        options = MountOptions(
            repository=str(tmp_path / "repo"), mountpoint=str(place), branch="main", poll_interval_s=0.05,
            state_dir=scratch, foreground=True,
        )  # fmt: skip
        daemon = run_daemon(SLOW, options, log)
        mount = Mount(place, daemon.pid, log)
        try:
            made: list[str] = []

            def make() -> None:
                (place / "a/c").mkdir(exist_ok=True)
                (place / "a/c/2").write_bytes(b"2")
                made.append("2")

            writer = threading.Thread(target=make)
            writer.start()
            time.sleep(0.2)  # the working tree is being opened
            with repository.transaction("main", message="theirs") as session:
                session.chunks.set("/a", (1,), b"1")
            writer.join(30)
            assert made == ["2"]
            status = mount.control("status.json")
            assert mount.control("diff.json")["from"] == status["snapshot"]
            told = mount.rpc({"op": "commit", "message": "ours", "rebase": "fail"})[-1]
            assert told["type"] == "result", told
            assert sorted(path.name for path in (place / "a/c").iterdir()) == ["1", "2"]
        finally:
            unmount(place)
            assert daemon.wait(timeout=30) == 0, log.read_text()
