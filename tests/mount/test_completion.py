"""What the Tab key offers in real shells: commands, options, refs of a repository or a mount, and mountpoints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.official import GROUP, commit, create
from tests.support.ci import require
from tests.support.mounting import mounted

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def mount(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "repo"
    official = create(path, 2)
    snapshot = commit(official, "first", {"zarr.json": GROUP})
    snapshot = commit(
        official, "nodes", {"surface/zarr.json": GROUP, "surface/wind/zarr.json": GROUP, "soil/zarr.json": GROUP}
    )
    official.create_branch("feature-x", snapshot)
    official.create_tag("v1.0", snapshot)
    with mounted(path) as mount:
        mount.repository = path
        yield mount


def environment():
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}


def bash(words, here="/"):
    """Presses Tab behind the words, as bash does."""
    script = """
    source <(icefs completion bash)
    COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1))
    COMP_LINE="$*"
    $(complete -p icefs | sed 's/.*-F \\([^ ]*\\) .*/\\1/') icefs "${COMP_WORDS[COMP_CWORD]}"
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words], cwd=here, env=environment(), capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def fish(words, here="/"):
    line = " ".join(words)
    script = f"icefs completion fish | source; complete --do-complete '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], cwd=here, env=environment(), capture_output=True, text=True, check=True
    )
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


def zsh(words, here="/"):
    """Asks as zsh's script does, after zsh has found nothing wrong with it; what it shows needs a terminal."""
    script = """
    autoload -Uz compinit && compinit -u -D
    source <(icefs completion zsh) || exit 1
    [[ -n ${_comps[icefs]} ]] || exit 2
    env COMP_WORDS="$*" COMP_CWORD=$(($# - 1)) _ICEFS_COMPLETE=zsh_complete icefs
    """
    done = subprocess.run(
        ["zsh", "-f", "-c", script, "zsh", *words],
        cwd=here,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[1::3]


SHELLS = {"bash": bash, "fish": fish, "zsh": zsh}


@pytest.fixture(params=SHELLS)
def press_tab(request):
    require(shutil.which(request.param) is not None, f"{request.param}, from Debian")
    return SHELLS[request.param]


def test_commands_refs_and_mountpoints(press_tab, mount):
    repository = str(mount.repository)
    assert {"commit", "completion", "config"} <= set(press_tab(["icefs", "co"]))
    assert press_tab(["icefs", "umount", str(mount.path)[:-1]]) == [str(mount.path)]
    assert press_tab(["icefs", "branch", "reset", "f"], here=mount.path) == ["feature-x"]
    assert press_tab(["icefs", "mount", repository, "/mnt", "--tag", "v"]) == ["v1.0"]


def test_where_refs_are_looked_for(mount):
    repository = str(mount.repository)
    assert bash(["icefs", "branch", "delete", ""], here=mount.path / "branches/main") == ["feature-x", "main"]
    assert bash(["icefs", "tag", "delete", "--repo", repository, ""]) == ["v1.0"]
    assert bash(["icefs", "mount", repository, "/mnt", "--branch", ""]) == ["feature-x", "main"]
    assert bash(["icefs", "log", repository, "v"]) == ["v1.0"]
    assert bash(["icefs", "diff", repository, "v"]) == ["v1.0"]
    assert bash(["icefs", "ls", f"{repository}@f"]) == [f"{repository}@feature-x"]
    assert bash(["icefs", "ls", repository, "--view", "netcdf"]) == [
        "netcdf",
        "netcdf,groups",
        "netcdf,half",
        "netcdf3",
    ]
    assert bash(["icefs", "export", "--format", "zarr2,"]) == ["zarr2,compressed"]
    assert bash(["icefs", "mount", repository, "/mnt", "--view", "np"]) == ["npy"]
    assert bash(["icefs", "commit", "--re"]) == ["--rebase"]
    assert bash(["icefs", "help", "trouble"]) == ["troubleshooting"]


def test_where_there_is_nothing_nothing_is_offered_and_nothing_said(tmp_path):
    for words in ("icefs branch delete ", "icefs log . ", "icefs ls nowhere@"):
        done = subprocess.run(
            ["icefs"],
            cwd=tmp_path,
            env={
                **environment(),
                "COMP_WORDS": words,
                "COMP_CWORD": str(words.count(" ")),
                "_ICEFS_COMPLETE": "bash_complete",
            },
            capture_output=True,
            text=True,
            check=True,
        )
        assert (done.stdout.strip(), done.stderr) == ("", ""), words


def test_nodes_and_settings(press_tab, mount):
    repository = str(mount.repository)
    tree = mount.path / "branches/main"
    assert press_tab(["icefs", "ls", repository, "s"]) == ["soil", "surface/"]
    assert press_tab(["icefs", "blame", repository, "surface/"]) == ["surface/wind"]
    assert press_tab(["icefs", "cat", repository, "surface/"]) == ["surface/wind", "surface/zarr.json"]
    assert press_tab(["icefs", "ls", ".", "w"], here=tree / "surface") == ["wind"]
    assert press_tab(["icefs", "config", "get", "compression.l"]) == ["compression.level"]
    assert press_tab(["icefs", "config", "set", "compression.l"]) == ["compression.level="]
