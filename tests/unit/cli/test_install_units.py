"""Putting units and helpers in place, below a prefix; and what mount(8)'s helpers make of their arguments."""

import json
import os
import sys
from pathlib import Path

import pytest

import icefs.cli.commands.install_units as install_units_module
from icefs.cli import mount_helper
from icefs.cli.commands.install_units import HELPERS, UNIT
from icefs.cli.main import icefs, main
from icefs.cli.support.exit_codes import STATE, USAGE
from icefs.cli.support.manpages import all_pages

BIN = Path(sys.executable).parent


def install(*arguments):
    assert main(["install-units", *map(str, arguments)]) == 0


def tree(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink())


def test_everything_is_put_in_place_said_and_removed_again(tmp_path, capsys):
    unit = tmp_path / "etc/systemd/system" / UNIT
    install("--prefix", tmp_path, "--dry-run")
    assert f"would be installed {unit}\n" in capsys.readouterr().out
    assert tree(tmp_path) == []
    install("--prefix", tmp_path)
    told = capsys.readouterr().out
    share = "usr/local/share"
    completions = ("bash-completion/completions/icefs", "fish/vendor_completions.d/icefs.fish")
    expected = [f"etc/systemd/system/{UNIT}", *(place.removeprefix("/") for place in HELPERS)]
    expected += [f"{share}/{place}" for place in (*completions, "zsh/site-functions/_icefs")]
    pages = [f"{share}/man/{page}" for page in all_pages(icefs)]
    assert tree(tmp_path) == sorted(expected + pages)
    assert [f"installed {tmp_path}/{place}" in told for place in expected] == [True] * 8
    assert f"installed {len(pages)} manual pages\n" in told
    assert {"man1/icefs-commit.1", "man7/icefs-s3.7", "man8/mount.icefs.8"} < set(all_pages(icefs))
    assert (tmp_path / share / "zsh/site-functions/_icefs").read_text().startswith("#compdef icefs\n")
    assert told.endswith("next: write /etc/icefs/NAME.toml, then run 'systemctl enable --now icefs@NAME'\n")
    assert (tmp_path / "etc/icefs").is_dir()
    text = unit.read_text()
    assert f"ExecStart={BIN}/icefs serve /etc/icefs/%i.toml\n" in text
    assert "Description=icefs mount %i\n" in text
    assert os.readlink(tmp_path / "usr/sbin/mount.icefs") == str(BIN / "mount.icefs")
    unit.write_text(text + "# an older version\n")
    install("--prefix", tmp_path, "--json")
    actions = json.loads(capsys.readouterr().out)["actions"]
    assert [action["action"] for action in actions] == ["replaced", *["kept"] * (8 + len(pages))]
    install("--prefix", tmp_path, "--uninstall")
    assert tree(tmp_path) == []
    assert (tmp_path / "etc/icefs").is_dir()  # configuration is not ours to remove


@pytest.mark.parametrize("place", [f"etc/systemd/system/{UNIT}", "usr/sbin/mount.icefs"])
def test_what_somebody_else_put_there_is_not_touched(tmp_path, capsys, place):
    other = tmp_path / place
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    assert main(["install-units", "--prefix", str(tmp_path)]) == STATE
    assert f"not ours: {other}" in capsys.readouterr().err
    assert tree(tmp_path) == [place]
    install("--prefix", tmp_path, "--uninstall")
    assert other.read_text() == "mine"


def test_the_user_unit_goes_to_the_user(tmp_path, monkeypatch, capsys):
    config, data = tmp_path / "config", tmp_path / "data"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    monkeypatch.setenv("XDG_DATA_HOME", str(data))
    monkeypatch.setenv("PATH", "/nowhere")  # no systemctl
    install("--user")
    assert tree(config) == ["fish/completions/icefs.fish", f"systemd/user/{UNIT}"]
    assert tree(data) == sorted(["bash-completion/completions/icefs", *(f"man/{page}" for page in all_pages(icefs))])
    assert "systemctl --user enable" in capsys.readouterr().out
    assert main(["install-units", "--user", "--prefix", "/x"]) == USAGE


@pytest.fixture
def ran(monkeypatch):
    commands = []
    monkeypatch.setattr(mount_helper, "icefs", lambda command: commands.append(command) or 0)
    return commands


def test_mount_as_mount8_asks_for_it(ran):
    assert mount_helper.mount(["/r", "/m", "-n", "-o", "rw,branch=main", "-t", "icefs"]) == 0
    assert mount_helper.mount(["/r", "/m", "-s", "-v", "-o", "ro,_netdev", "-o", "uid=7"]) == 0
    assert mount_helper.mount(["/r", "/m", "-r"]) == 0
    assert ran == [
        ["mount", "-o", "rw,branch=main", "--", "/r", "/m"],
        ["mount", "-o", "ro,_netdev", "-o", "uid=7", "--", "/r", "/m"],
        ["mount", "--read-only", "--", "/r", "/m"],
    ]


def test_a_rehearsal_mounts_nothing(ran):
    assert mount_helper.mount(["/r", "/m", "-f"]) == 0
    assert ran == []


def test_umount_as_umount8_asks_for_it(ran):
    for arguments in (["/m"], ["/m", "-l"], ["/m", "-f", "-n", "-t", "fuse.icefs"]):
        assert mount_helper.umount(arguments) == 0
    assert ran == [["umount", "--", "/m"], *[["umount", "--lazy", "--", "/m"]] * 2]


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (USAGE, 1), (3, 32), (7, 32), (70, 32)])
def test_exit_codes_are_those_of_mount8(monkeypatch, code, expected):
    monkeypatch.setattr(mount_helper, "icefs", lambda command: code)
    assert mount_helper.mount(["/r", "/m"]) == expected


@pytest.mark.parametrize("arguments", [[], ["/r"], ["/r", "/m", "/x"], ["/r", "/m", "-N", "7"], ["/r", "/m", "-z"]])
def test_a_wrong_call_is_one_line(ran, capsys, arguments):
    assert mount_helper.mount(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert ran == []


def test_units_that_run_what_others_can_change_are_warned_of(tmp_path, monkeypatch, capsys):
    """Root's units, and what mount(8) calls, run this installation."""
    monkeypatch.setattr(install_units_module, "updatedb_reads_mounts", lambda: True)
    monkeypatch.setattr(install_units_module, "who_may_change", lambda path, far=False: f"{path} is open")
    assert main(["install-units", "--prefix", str(tmp_path), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert any("the units run what other users can change" in warning for warning in warnings)
    assert any("choose what is mounted" in warning for warning in warnings)
    assert any("PRUNEFS" in warning for warning in warnings)
    assert main(["install-units", "--prefix", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("icefs: warning: ") == len(warnings)


def test_what_is_installed_can_be_changed_by_nobody_else(tmp_path):
    before = os.umask(0)
    try:
        assert main(["install-units", "--prefix", str(tmp_path)]) == 0
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        if not path.is_symlink():
            assert not path.stat().st_mode & 0o022, path
