"""Configuration files of services: what they say, and what is said of wrong ones."""

import json
from pathlib import Path

import pytest

from icefs.cli.main import main
from icefs.cli.support.exit_codes import NOT_FOUND, USAGE
from icefs.cli.support.service_config import KEYS, check_config, find_config, load_config
from icefs.errors import EntryNotFoundError, InvalidInputError

LEAST = 'repository = "/data/era5"\nmountpoint = "/mnt/era5"\n'


def options(text):
    found, problems = check_config((LEAST + text).encode())
    assert problems == []
    return found


def problems(text):
    found, problems = check_config(text if isinstance(text, bytes) else text.encode())
    assert found is None
    return [tuple(problem) for problem in problems]


def test_the_least_has_the_defaults_of_the_command_line(monkeypatch):
    for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    found = options("")
    assert (found.repository, found.mountpoint, found.branch) == ("/data/era5", "/mnt/era5", None)
    assert (found.poll_interval_s, found.cache_size, found.umask, found.uid) == (5.0, 10 << 30, 0o022, None)
    assert (found.foreground, found.log_file, found.read_only) == (True, None, False)


def test_each_kind_of_value():
    found = options(
        'read-only = true\npoll-interval = 3\ncache-size = "1.5G"\npack-size = 1024\numask = "022"\nuid = 7\n'
        'allow-virtual = [\n  "s3://a/",\n  "file:///b",\n]\nlog-level = "debug"\nas-of = 2026-01-31\n'
    )
    assert (found.read_only, found.poll_interval_s, found.cache_size, found.pack_size) == (True, 3.0, 3 << 29, 1024)
    assert (found.umask, found.uid, found.log_level) == (0o22, 7, "debug")
    assert found.allow_virtual == ("s3://a/", "file:///b")
    end_of_the_day = 1769904000_000000 - 1
    assert (found.branch, found.as_of) == ("main", end_of_the_day)


def test_the_keys_are_the_long_options_of_mount():
    from icefs.cli.commands.mount import mount

    long = {option.removeprefix("--") for param in mount.params for option in param.opts if option.startswith("--")}
    assert set(KEYS) == long - {"foreground", "json", "debug"} | {"repository", "mountpoint"}


def test_the_directories_of_the_service_manager_are_taken(monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/icefs")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/icefs:/other")
    found = options("")
    assert (found.state_dir, found.cache_dir) == ("/var/lib/icefs/trees", "/var/cache/icefs")
    found = options('state-dir = "/s"\ncache-dir = "/c"')
    assert (found.state_dir, found.cache_dir) == ("/s", "/c")


@pytest.mark.parametrize(
    ("text", "line", "key", "reason"),
    [
        ("pol-interval = 3", 3, "pol-interval", "unknown key; did you mean poll-interval?"),
        ("allow_other = true", 3, "allow_other", "unknown key; did you mean allow-other?"),
        ("xyzzy = 1", 3, "xyzzy", "unknown key"),
        ("[mount]\nx = 1", 3, "mount", "unknown key; did you mean mountpoint?"),
        ('read-only = "yes"', 3, "read-only", "must be true or false"),
        ("# why\n\npoll-interval = true", 5, "poll-interval", "must be a number"),
        ("poll-interval = -1", 3, "poll-interval", "-1.0 is not in the range x>=0"),
        ('cache-size = "12Q"', 3, "cache-size", "'12Q' is not a size such as 512k, 8M or 1.5GiB"),
        ("umask = 22", 3, "umask", 'must be a text in octal, as "022"'),
        ("branch = 1.5", 3, "branch", "must be a text"),
        ('log-level = "loud"', 3, "log-level", "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
        ('allow-virtual = "s3://a/"', 3, "allow-virtual", "must be a list of texts"),
        ("allow-virtual = [1]", 3, "allow-virtual", "must be a list of texts"),
        ('uid = "nobody-at-all"', 3, "uid", "there is no user 'nobody-at-all'"),
        ('state-dir = "trees"', 3, "state-dir", "not an absolute path: 'trees'; a service has no current directory"),
        # A line that only looks like the key's stands in a text of several lines.
        ('allow-virtual = ["""\numask = 1\n"""]\numask = 22', 6, "umask", 'must be a text in octal, as "022"'),
    ],
)
def test_what_is_wrong_is_said_with_line_and_key(text, line, key, reason):
    assert problems(LEAST + text) == [(line, key, reason)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [(None, "repository", "missing"), (None, "mountpoint", "missing")]),
        ('repository = "/a"\nmountpoint = /b\n', [(2, "mountpoint", "not TOML: invalid value")]),
        (LEAST + LEAST, [(3, "repository", "not TOML: cannot overwrite a value")]),
        (b'repository = "/a"\nx = "\xff"', [(2, None, "not UTF-8 text")]),
        (LEAST + 'branch = "a"\ntag = "b"', [(None, None, "give one of branch, tag and snapshot")]),
        (
            'repository = "data"\nmountpoint = 3',
            [
                (1, "repository", "not an absolute path: 'data'; a service has no current directory"),
                (2, "mountpoint", "must be a text"),
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_whole_file(text, expected):
    assert problems(text) == expected


def test_a_repository_with_a_ref_is_refused():
    [(line, key, reason)] = problems('repository = "/a@main"\nmountpoint = "/b"')
    assert (line, key) == (None, None)
    assert "without @REF" in reason


def test_the_first_problem_is_raised_with_the_file(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(LEAST + "a = 1\nb = 2\n")
    with pytest.raises(InvalidInputError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}:3: a: unknown key (and 1 more)"
    assert "icefs config check" in caught.value.hint


def test_a_name_is_looked_for_among_ones_own_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "icefs").mkdir()
    own = tmp_path / "icefs/era5.toml"
    own.write_text(LEAST)
    assert find_config("era5") == own
    assert find_config(str(own)) == own
    with pytest.raises(EntryNotFoundError, match=f"{tmp_path}/icefs/other.toml or /etc/icefs/other.toml"):
        find_config("other")


def test_config_check(tmp_path, capsys):
    path = tmp_path / "x.toml"
    path.write_text(LEAST)
    assert main(["config", "check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: ok: /data/era5 at /mnt/era5\n"
    path.write_text(LEAST + "a = 1\nread-only = 2\n")
    assert main(["config", "check", str(path)]) == USAGE
    shown = capsys.readouterr().err
    assert shown == f"icefs: {path}:3: a: unknown key\nicefs: {path}:4: read-only: must be true or false\n"
    assert main(["config", "check", "--json", str(path)]) == USAGE
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["ok"]) == (str(path), False)
    assert told["problems"][0] == {"line": 3, "key": "a", "reason": "unknown key"}
    assert main(["config", "check", str(Path(tmp_path, "missing.toml"))]) == NOT_FOUND


@pytest.mark.parametrize("mode", [0o666, 0o622, 0o777])
def test_a_file_that_others_can_change_is_not_used(tmp_path, capsys, mode):
    """A user who can write it chooses what root mounts, where, and where the log goes."""
    path = tmp_path / "x.toml"
    path.write_text(LEAST)
    path.chmod(mode)
    assert main(["config", "check", str(path)]) == USAGE
    assert f"every user can write to {path}" in capsys.readouterr().err
    assert main(["serve", str(path)]) == USAGE
    assert f"every user can write to {path}" in capsys.readouterr().err
    path.chmod(0o644)
    assert main(["config", "check", str(path)]) == 0


def test_a_service_without_its_file_is_not_started_again(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "missing.toml")]) == USAGE
    units = Path(__file__).parents[3] / "systemd"
    for unit in (units / "icefs@.service", units / "user/icefs@.service"):
        lines = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and line[0] != "#")
        assert str(USAGE) in lines["RestartPreventExitStatus"].split()
        assert int(lines["RestartSteps"]) > 1
        assert int(lines["RestartMaxDelaySec"]) >= 30
