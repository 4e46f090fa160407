"""The units under a real systemd: it boots, they start, are killed, hang, reload and stop."""

import json
import tempfile
from pathlib import Path

import pytest

from tests.support.mounting import wait_until
from tests.support.systemd_machine import PROJECT, Machine, has_autofs, require_autofs, require_systemd

PREPARE = f"""
export PATH=$PATH:{PROJECT}/.venv/bin HOME=/root
icefs init /srv/demo
icefs init /srv/fstab
icefs install-units > /var/log/installed
icefs install-units >> /var/log/installed
cat > /etc/icefs/demo.toml <<END
repository = "/srv/demo"
mountpoint = "/mnt/demo"
poll-interval = 0.2
allow-other = true
END
systemctl enable icefs@demo
cat > /etc/fstab <<END
/srv/fstab /mnt/boot icefs branch=main,ro,_netdev 0 0
END
mkdir -p /home/ada/.config/icefs
"""
AUTOMOUNT = "/srv/fstab /mnt/auto icefs branch=main,state-dir=/var/lib/auto,x-systemd.automount 0 0"
UNIT = "icefs@demo"
ARRAY = json.dumps(
    {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4096],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4096]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
    }
)
GROUP = '{"zarr_format":3,"node_type":"group","attributes":{}}'

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    require_systemd()
    with tempfile.NamedTemporaryFile(prefix="icefs-outside-") as outside:
        with Machine(tmp_path_factory.mktemp("machine")) as machine:
            machine.prepare(PREPARE + (f"echo '{AUTOMOUNT}' >> /etc/fstab\n" if has_autofs() else ""))
            machine.boot()
            assert not machine.succeeds(f"test -e {outside.name}"), "it shares the real /tmp"
            yield machine
        assert Path(outside.name).exists(), "it emptied the real /tmp"


@pytest.fixture
def service(machine):
    """The unit of the demo repository, running, and its branch without changes."""
    machine.run(f"systemctl start {UNIT}")
    machine.run("icefs discard --all /mnt/demo/branches/main")
    return machine


def main_pid(machine):
    return int(machine.show(UNIT, "MainPID"))


def status(machine):
    return machine.show(UNIT, "StatusText")


def is_mounted(machine, place):
    return machine.succeeds(f"findmnt --mountpoint {place}")


def info(machine, place="/mnt/demo"):
    return json.loads(machine.run(f"cat {place}/.icefs/info.json"))


def test_it_starts_at_boot_with_the_mounts_of_fstab(machine):
    assert machine.run("systemctl is-system-running").strip() == "running", machine.run("systemctl --failed")
    assert machine.show(UNIT, "ActiveState") == "active"
    assert machine.run("ls /mnt/demo").split() == ["as-of", "branches", "snapshots", "tags"]
    assert machine.show("mnt-boot.mount", "ActiveState") == "active"
    assert machine.show("remote-fs.target", "ActiveState") == "active"
    assert machine.run("findmnt --noheadings --output SOURCE,FSTYPE /mnt/boot").split() == ["/srv/fstab", "fuse.icefs"]
    assert not machine.succeeds("touch /mnt/boot/x")


def test_what_was_installed_was_said(machine):
    told = machine.run("cat /var/log/installed").splitlines()
    assert "installed /etc/systemd/system/icefs@.service" in told
    assert "kept /etc/systemd/system/icefs@.service" in told  # the second time
    assert machine.succeeds("test -x /sbin/mount.icefs")
    verified = machine.run(f"systemd-analyze verify {UNIT}.service")
    # systemd before version 254 says that it ignores these two.
    newer = ("RestartSteps", "RestartMaxDelaySec")
    wrong = [line for line in verified.splitlines() if "icefs" in line and not any(key in line for key in newer)]
    assert wrong == []
    exposure = float(machine.run(f"systemd-analyze security --no-pager {UNIT} | tail -1").split()[-3])
    assert exposure < 5.5


def test_started_means_that_the_mount_answers_and_the_status_line_is_kept_current(service):
    service.run(f"systemctl restart {UNIT} && ls /mnt/demo/branches/main")
    assert status(service).startswith("/srv/demo: main 1CECHNKR")
    service.run(f"echo '{GROUP}' > /mnt/demo/branches/main/zarr.json")
    wait_until(lambda: status(service).endswith("(1 uncommitted change)"), "a status with a change")
    assert 'Status: "/srv/demo: main' in service.run(f"systemctl status --no-pager {UNIT}")
    commit = json.loads(service.run("icefs commit --json /mnt/demo/branches/main -m first"))
    wait_until(lambda: status(service) == f"/srv/demo: main {commit['snapshot'][:8]}", "a status with the new tip")


def test_a_daemon_that_is_killed_comes_back_with_what_was_not_committed(service):
    service.run("echo kept > /mnt/demo/branches/main/notes")
    before = main_pid(service)
    # Until it is there again the mount is no empty directory, which a mirror would take for an empty repository.
    told = service.run(f"systemctl kill --signal=KILL {UNIT}; sleep 0.2; ls /mnt/demo", check=False)
    assert "not connected" in told
    wait_until(lambda: service.show(UNIT, "SubState") == "running" and main_pid(service) != before, "a new daemon")
    assert service.run("cat /mnt/demo/branches/main/notes").strip() == "kept"
    wait_until(lambda: "(1 uncommitted change)" in status(service), "a status with the change")
    assert service.run("findmnt --noheadings /mnt/demo").count("/mnt/demo") == 1  # the stale mount is gone


def test_the_watchdog_ends_a_daemon_whose_event_loop_is_stuck(service):
    # The unit's own half minute is long for a test, and less than a few seconds short for a busy machine.
    drop_in = "/run/systemd/system/icefs@demo.service.d"
    service.run(f"mkdir -p {drop_in} && printf '[Service]\\nWatchdogSec=3\\n' > {drop_in}/quick.conf")
    try:
        service.run(f"systemctl daemon-reload && systemctl restart {UNIT}")
        before = main_pid(service)
        service.run("echo kept > /mnt/demo/branches/main/notes")
        service.run(f"kill -STOP {before}")
        wait_until(lambda: main_pid(service) not in (0, before), "a restart by the watchdog")
        wait_until(lambda: service.show(UNIT, "ActiveState") == "active", "a new daemon")
    finally:
        service.run(f"rm {drop_in}/quick.conf && systemctl daemon-reload && systemctl restart {UNIT}")
    told = "".join(one["MESSAGE"] for one in service.entries(UNIT))
    assert "Watchdog timeout" in told
    assert "Fatal Python error: Aborted" in told  # with the stacks of all threads
    assert service.run("cat /mnt/demo/branches/main/notes").strip() == "kept"


def test_a_reload_takes_over_what_can_be_changed(service):
    config = service.run("cat /etc/icefs/demo.toml")

    def write(text):
        service.run(f"cat > /etc/icefs/demo.toml <<'END'\n{text}\nEND")

    try:
        write(config.replace("0.2", "0.1") + 'log-level = "debug"\ncache-size = "1G"\nbranch = "main"')
        pid = main_pid(service)
        service.run(f"systemctl reload {UNIT}")
        found = info(service)
        assert (found["options"]["poll_interval_s"], found["options"]["log_level"]) == (0.1, "debug")
        assert found["service"]["needs_restart"] == ["branch"]
        assert found["service"]["no_effect"] == ["cache-size"]
        assert "these changes wait for a restart: branch" in service.journal(UNIT)
        assert "cache-size has no effect: a local repository has no cache" in service.journal(UNIT)
        write(config + "poll-intervall = 3")
        assert "failed" in service.run(f"systemctl reload {UNIT} 2>&1", check=False)
        assert "/etc/icefs/demo.toml:5: poll-intervall: unknown key; did you mean poll-interval?" in service.journal()
        assert (main_pid(service), service.show(UNIT, "ActiveState")) == (pid, "active")
        # The signal alone does the same; its sender gets no answer, but the log has one.
        service.run(f"kill -HUP {pid}")
        wait_until(lambda: "not reloaded" in service.journal(UNIT), "a refusal")
        assert "poll-intervall" in info(service)["service"]["problem"]
    finally:
        write(config)
    service.run(f"systemctl reload {UNIT}")
    assert info(service)["options"]["log_level"] == "info"


def test_the_journal_has_priorities_mount_and_branch(service):
    def entries(*matches):
        return service.entries(UNIT, f"_PID={main_pid(service)}", *matches)

    service.run(f"systemctl restart {UNIT}")
    wait_until(lambda: [one for one in entries() if " serves /srv/demo at " in one["MESSAGE"]], "its first line")
    [first] = [one for one in entries() if " serves /srv/demo at " in one["MESSAGE"]]
    assert (first["PRIORITY"], first["SYSLOG_IDENTIFIER"], first["_SYSTEMD_UNIT"]) == ("6", "icefs", f"{UNIT}.service")
    assert (first["_TRANSPORT"], first["ICEFS_MOUNT"], first["LOGGER"]) == (
        "journal",
        "/mnt/demo",
        "icefs.daemon.serve",
    )
    assert "ICEFS_BRANCH" not in first  # it is about all of them

    main = "/mnt/demo/branches/main"
    service.run(f"mkdir {main}/a && echo '{ARRAY}' > {main}/a/zarr.json && mkdir {main}/a/c")
    service.run(f"head -c 4096 /dev/urandom > {main}/a/c/0 && icefs commit {main} -m array")
    service.run(f"systemctl restart {UNIT} && mv /srv/demo/chunks /srv/demo/away")
    try:
        assert "Input/output error" in service.run(f"cat {main}/a/c/0", check=False)
    finally:
        service.run("mv /srv/demo/away /srv/demo/chunks")
    # What journalctl itself takes for a warning or worse, and of that branch.
    wait_until(lambda: entries("--priority=warning", "ICEFS_BRANCH=main"), "a complaint of the branch")
    complaints = entries("--priority=warning")
    assert all("/branches/main/a/c/0" in one["MESSAGE"] for one in complaints), complaints
    assert {(one["ICEFS_MOUNT"], one["ICEFS_BRANCH"]) for one in complaints} == {("/mnt/demo", "main")}

    service.run("icefs log-level /mnt/demo debug && ls /mnt/demo/tags && icefs log-level /mnt/demo info")
    wait_until(lambda: entries("PRIORITY=7", "LOGGER=icefs.vfs.observe.access_log"), "what debug shows")
    assert "opendir /tags" in "".join(one["MESSAGE"] for one in entries("PRIORITY=7"))


def test_a_journal_that_was_away_gets_what_comes_later(service):
    look = "ls /mnt/demo/branches"  # of which each request is a line, at level debug

    def told():
        return len(service.entries(UNIT, f"_PID={pid}", "LOGGER=icefs.vfs.observe.access_log"))

    pid, sockets = main_pid(service), "systemd-journald.socket systemd-journald-dev-log.socket"
    service.run(f"icefs log-level /mnt/demo debug && {look}")
    wait_until(told, "a line before")
    service.run(f"systemctl stop {sockets} systemd-journald.service")
    try:
        service.run(look)  # lines are lost now, and nobody waits for them
    finally:
        service.run(f"systemctl start {sockets} systemd-journald.service")
    try:
        before = told()
        service.run(look)
        wait_until(lambda: told() > before, "a line of the same daemon")
    finally:
        service.run(f"systemctl restart {UNIT}")  # its stderr went away with the journal


def test_stop_unmounts_and_waits_also_what_is_busy(service):
    service.run("echo kept > /mnt/demo/branches/main/notes")
    pid = main_pid(service)
    service.run("systemd-run --quiet --unit=holder --working-directory=/mnt/demo/branches/main sleep 60")
    wait_until(lambda: service.show("holder", "SubState") == "running", "a process in the mount")
    service.run(f"systemctl stop {UNIT}")
    assert not service.succeeds(f"test -e /proc/{pid}")
    assert not is_mounted(service, "/mnt/demo")
    assert service.show(UNIT, "Result") == "success"
    service.run("systemctl stop holder")
    service.run(f"systemctl start {UNIT}")
    assert service.run("cat /mnt/demo/branches/main/notes").strip() == "kept"


def test_stop_unmounts_also_where_the_daemon_has_to_be_killed(service):
    drop_in = "/run/systemd/system/icefs@demo.service.d"
    service.run(
        f"mkdir -p {drop_in} && printf '[Service]\\nKillSignal=SIGURG\\nTimeoutStopSec=1\\n' > {drop_in}/deaf.conf"
    )
    try:
        service.run(f"systemctl daemon-reload && systemctl stop {UNIT}")
        assert service.show(UNIT, "Result") == "timeout"
        assert not is_mounted(service, "/mnt/demo")
        assert "cleared away /mnt/demo, whose daemon had to be killed" in service.journal(UNIT)
    finally:
        service.run(f"rm {drop_in}/deaf.conf && systemctl daemon-reload && systemctl reset-failed {UNIT}")


def test_umount_ends_the_service_and_is_no_failure(service):
    service.run("umount /mnt/demo")
    wait_until(lambda: service.show(UNIT, "ActiveState") == "inactive", "the end of the service")
    assert service.show(UNIT, "Result") == "success"


def test_a_wrong_configuration_fails_once_and_says_where(machine):
    machine.run("printf 'repository = \"/srv/demo\"\\nmountpoint = 7\\n' > /etc/icefs/bad.toml")
    assert not machine.succeeds("systemctl start icefs@bad")
    assert "/etc/icefs/bad.toml:2: mountpoint: must be a text" in machine.journal("icefs@bad")
    assert (machine.show("icefs@bad", "ActiveState"), machine.show("icefs@bad", "NRestarts")) == ("failed", "0")


def test_mount8_and_umount8(machine):
    machine.run(
        "mkdir -p /mnt/hand; mount -t icefs /srv/fstab /mnt/hand -o branch=main,state-dir=/var/lib/hand,_netdev"
    )
    pid = info(machine, "/mnt/hand")["pid"]
    machine.run(f"echo '{GROUP}' > /mnt/hand/zarr.json && umount /mnt/hand")
    assert not machine.succeeds(f"test -e /proc/{pid}")  # it has ended when umount returns
    told = machine.run("mount -t icefs /srv/fstab /mnt/hand -o nonsense=1; echo $?", check=False)
    assert "unknown mount option: nonsense" in told
    assert told.split()[-1] == "1"
    told = machine.run("mount -t icefs /srv/none /mnt/hand; echo $?", check=False)
    assert "/srv/none" in told
    assert told.split()[-1] == "32"
    machine.run("mount -t icefs /srv/fstab /mnt/hand -o branch=main,state-dir=/var/lib/hand")
    assert machine.run("cat /mnt/hand/zarr.json").strip() == GROUP
    machine.run("umount -l /mnt/hand")
    assert not is_mounted(machine, "/mnt/hand")


def test_fstab_lines_through_their_units(machine):
    machine.run("systemctl stop mnt-boot.mount")
    wait_until(lambda: not is_mounted(machine, "/mnt/boot"), "the unmount")
    machine.run("mount -a -O _netdev && mount -a -O _netdev")
    assert machine.run("findmnt --noheadings /mnt/boot").count("fuse.icefs") == 1
    # systemd reads the mount table in its own time.
    wait_until(lambda: machine.show("mnt-boot.mount", "ActiveState") == "active", "the unit")
    machine.run("umount /mnt/boot")
    wait_until(lambda: machine.show("mnt-boot.mount", "ActiveState") == "inactive", "the end of the unit")


def test_an_automount_mounts_at_the_first_access(machine):
    require_autofs()
    assert machine.show("mnt-auto.automount", "ActiveState") == "active"  # since the boot
    assert machine.show("mnt-auto.mount", "ActiveState") == "inactive"
    machine.run("echo kept > /mnt/auto/notes")
    assert machine.show("mnt-auto.mount", "ActiveState") == "active"
    machine.run("systemctl stop mnt-auto.mount")
    assert machine.run("cat /mnt/auto/notes").strip() == "kept"
    machine.run("systemctl stop mnt-auto.automount mnt-auto.mount")


USER_MANAGER = """
[Service]
Type=notify
User=ada
RuntimeDirectory=user/4711
Environment=XDG_RUNTIME_DIR=/run/user/4711 HOME=/home/ada
ExecStart=/lib/systemd/systemd --user
Delegate=yes
"""


def test_the_user_unit_mounts_for_its_user(machine):
    def as_ada(command, *, check=True):
        ada = "setpriv --reuid=4711 --regid=4711 --clear-groups env HOME=/home/ada XDG_RUNTIME_DIR=/run/user/4711"
        return machine.run(f"{ada} sh -ec '{command}'", check=check)

    machine.run("chown -R ada:ada /home/ada")
    as_ada("icefs init /home/ada/repo; mkdir -p /home/ada/mnt")
    machine.run(f"cat > /run/systemd/system/ada.service <<'END'{USER_MANAGER}END\nsystemctl daemon-reload")
    machine.run("systemctl start ada")
    told = as_ada("icefs install-units --user")
    assert "installed /home/ada/.config/systemd/user/icefs@.service" in told
    assert "systemd has read its units again" in told
    as_ada('printf "repository = \\"~/repo\\"\\nmountpoint = \\"~/mnt\\"\\n" > ~/.config/icefs/mine.toml')
    as_ada("systemctl --user start icefs@mine; echo kept > ~/mnt/branches/main/notes")
    assert 'Status: "/home/ada/repo: main' in as_ada("systemctl --user status --no-pager icefs@mine")
    as_ada("systemctl --user kill --signal=KILL icefs@mine")
    wait_until(lambda: as_ada("cat ~/mnt/branches/main/notes", check=False) == "kept\n", "a new daemon")
    as_ada('systemctl --user stop icefs@mine; test -z "$(ls ~/mnt)"')
    machine.run("systemctl stop ada")
