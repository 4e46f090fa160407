"""What a shell has, at work on a mounted branch: trees copied, unpacked, synchronised, moved, edited and removed."""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
import zarr

from tests.support.programs import DEADLINE_S, files_of, find_program, run

A = np.random.default_rng(3).normal(size=(40, 50)).astype("f4")


def write(path, factor=1):
    """Writes a small hierarchy, as some program elsewhere has."""
    group = zarr.open_group(path, mode="w", attributes={"factor": factor})
    group.create_array("plain", shape=A.shape, chunks=(10, 10), dtype="f4", compressors=None)[:] = factor * A
    group.create_array("g/sharded", shape=A.shape, chunks=(4, 5), shards=(20, 25), dtype="f4")[:] = factor * A
    group.create_array("scalar", shape=(), dtype="i4")[...] = factor


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two hierarchies: one, and the same later on, with other values and fewer nodes."""
    place = tmp_path_factory.mktemp("sources")
    write(place / "one")
    write(place / "two", 2)
    shutil.rmtree(place / "two/g")
    for path in (place / "one").rglob("*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 100))
    return place


def assert_two(group):
    np.testing.assert_array_equal(group["plain"][:], 2 * A)
    assert group.attrs["factor"] == 2
    assert group["scalar"][()] == 2


@pytest.mark.parametrize("options", [["-r"], ["-a"], ["-r", "--remove-destination"]], ids=" ".join)
def test_cp(branch, sources, options):
    name = f"cp{len(''.join(options))}"
    branch.do(
        name,
        lambda path: run("cp", *options, sources / "one", path),
        lambda path: run("cp", *options, f"{sources}/two/.", path),
        # Onto itself: source and target are one.
        lambda path: run("cp", *options, path / "g", path / "copy"),
    )
    group = branch.official(name)
    np.testing.assert_array_equal(group["g/sharded"][:], A)
    np.testing.assert_array_equal(group["copy/sharded"][:], A)
    assert_two(group)


def test_eight_processes_copy_at_once(branch, sources):
    def copy(path, source):
        path.mkdir(exist_ok=True)
        run("cp", source / "zarr.json", path)
        names = "\n".join(str(path / f"part{number}") for number in range(8))
        run("xargs", "-P", "8", "-I", "{}", "cp", "-rT", source, "{}", input=names)

    branch.do("eight", lambda path: copy(path, sources / "one"), lambda path: copy(path, sources / "two"))
    for number in range(8):
        assert_two(branch.official(f"eight/part{number}"))


def test_chunks_that_a_smaller_array_leaves_outside_go_with_the_commit(branch, sources):
    """A copy over what is there removes nothing; outside of an array's shape there is nothing in Icechunk."""
    place = branch.path / "smaller"
    run("cp", "-r", sources / "one", place)
    branch.commit("whole")
    run("sed", "-i", "/shape/,/40/ s/40/20/", place / "plain/zarr.json")
    assert (place / "plain/c/3/0").exists()
    branch.commit("the half of it")
    assert sorted(os.listdir(place / "plain/c")) == ["0", "1"]
    assert not (place / "plain/c/3/0").exists()
    assert files_of(place) == branch.committed_files("smaller")
    np.testing.assert_array_equal(branch.official("smaller/plain")[:], A[:20])


@pytest.mark.parametrize("options", [[], ["--inplace"], ["--checksum"]], ids=["temporary", "inplace", "checksum"])
def test_rsync(branch, sources, options):
    """Run again, before a commit as after it, it finds nothing to do: sizes and times are as it left them."""
    rsync = find_program("rsync")
    name = f"rsync{''.join(options)}"

    def sync(source):
        def work(path):
            command = [rsync, "-ai", "--delete", *options, f"{source}/", f"{path}/"]
            assert run(*command)
            assert run(*command) == ""

        return work

    branch.do(name, sync(sources / "one"))
    assert run(rsync, "-ai", "--delete", *options, f"{sources}/one/", f"{branch.path}/{name}/") == ""
    branch.do(name, sync(sources / "two"))
    assert run(rsync, "-ai", "--delete", *options, f"{sources}/two/", f"{branch.path}/{name}/") == ""
    assert_two(branch.official(name))
    assert "g" not in branch.official(name)


@pytest.mark.parametrize("options", [[], ["--inplace"]], ids=["partial", "inplace"])
def test_rclone(branch, sources, options):
    """Run again it copies nothing; `sync` removes what the source no longer has."""
    rclone = find_program("rclone")
    name = f"rclone{''.join(options)}"

    def carry(command, source, place):
        done = subprocess.run(
            [rclone, command, source, place, "-v", "--stats-one-line", "--config", "", *options],
            capture_output=True, text=True, check=True, timeout=DEADLINE_S,
        )  # fmt: skip
        return len(re.findall(r": (?:Copied|Deleted|Updated)", done.stderr))

    def sync(command, source):
        def work(path):
            assert carry(command, source, path)
            assert carry(command, source, path) == 0

        return work

    branch.do(name, sync("copy", sources / "one"))
    assert carry("copy", sources / "one", branch.path / name) == 0
    branch.do(name, sync("sync", sources / "two"))
    assert carry("sync", sources / "two", branch.path / name) == 0
    run(rclone, "check", sources / "two", branch.path / name, "--config", "")
    assert_two(branch.official(name))


def pack(source, archive):
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted(source.rglob("*")):
                packed.write(path, path.relative_to(source))
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(source, ".")


def test_tar(branch, sources, tmp_path):
    for name in ("one", "two"):
        pack(sources / name, tmp_path / f"{name}.tgz")

    def unpack(name, *options):
        def work(path):
            path.mkdir(exist_ok=True)
            run("tar", "xzf", tmp_path / f"{name}.tgz", "-C", path, *options)

        return work

    branch.do("tar", unpack("one"), unpack("two"), unpack("one", "--unlink-first", "--recursive-unlink"), unpack("two"))
    for path, data in files_of(sources / "two").items():
        assert (branch.path / "tar" / path).read_bytes() == data
        assert int((branch.path / "tar" / path).stat().st_mtime) == int((sources / "two" / path).stat().st_mtime)
    assert_two(branch.official("tar"))


def test_tar_of_a_branch_into_itself(branch, sources):
    """One tar reads the branch while another writes to it."""

    def copy(path):
        if not path.exists():
            run("cp", "-r", sources / "one", path)
        target = path / f"copy{len(list(path.glob('copy*')))}"
        target.mkdir()
        run("sh", "-c", f"tar cf - -C '{path}/g' . | tar xf - -C '{target}'")

    branch.do("pipe", copy, copy)
    np.testing.assert_array_equal(branch.official("pipe/copy1/sharded")[:], A)


def test_unzip(branch, sources, tmp_path):
    unzip = find_program("unzip")
    for name in ("one", "two"):
        pack(sources / name, tmp_path / f"{name}.zip")
    branch.do(
        "unzip",
        lambda path: run(unzip, "-q", tmp_path / "one.zip", "-d", path),
        lambda path: run(unzip, "-qo", tmp_path / "two.zip", "-d", path),
    )
    assert_two(branch.official("unzip"))


def test_mv(branch, sources):
    """Nodes, groups and single chunks, also over what is there; no chunk is stored another time."""
    mv = find_program("mv")
    branch.do("mv", lambda path: run("cp", "-r", sources / "one", path))
    stored = files_of(branch.repo / "chunks").keys()
    branch.do(
        "mv",
        lambda path: run(mv, path / "plain", path / "simple"),
        lambda path: run(mv, path / "g", path / "h") + run(mv, path / "h/sharded", path / "sharded"),
        lambda path: run(mv, path / "simple", path / "sharded", path / "h"),
        lambda path: run(mv, path / "h/simple/c/0/0", path / "h/simple/c/0/1"),
        lambda path: run(mv, "-T", path / "h/simple/c/1", path / "h/simple/c/9") + run(
            mv, path / "h/simple/c/2", path / "h/simple/c/1") + run(
            mv, path / "h/simple/c/9", path / "h/simple/c/2"),
    )  # fmt: skip
    assert files_of(branch.repo / "chunks").keys() == stored
    expected = A.copy()
    expected[:10, 10:20] = A[:10, :10]
    expected[:10, :10] = 0
    expected[10:20], expected[20:30] = A[20:30], A[10:20]
    np.testing.assert_array_equal(branch.official("mv/h/simple")[:], expected)
    np.testing.assert_array_equal(branch.official("mv/h/sharded")[:], A)


def test_rm_and_find_delete(branch, sources):
    def copy(path):
        run("cp", "-r", sources / "one", path)

    branch.do(
        "rm",
        copy,
        lambda path: run("find", path / "plain/c", "-path", "*/3/*", "-delete"),
        lambda path: run("rm", "-r", path / "g"),
        lambda path: run("find", path, "-name", "0", "-type", "f", "-delete"),
        lambda path: run("rm", "-rf", path / "plain/c"),
    )
    assert sorted(branch.official("rm")) == ["plain", "scalar"]
    assert not branch.official("rm/plain")[:].any()
    branch.do("rm", lambda path: run("find", path, "-mindepth", "1", "-delete") + run("rmdir", path))
    assert "rm" not in branch.official("")


def test_sed_edits_metadata_in_place(branch, sources):
    """It writes a temporary file, gives it the mode of the old one, and renames it."""
    branch.do(
        "sed",
        lambda path: run("cp", "-r", sources / "one", path),
        lambda path: run("sed", "-i", 's/"factor": 1/"factor": 42/', path / "zarr.json"),
        lambda path: (
            run("sed", "-i.bak", 's/"factor": 42/"factor": 43/', path / "zarr.json") + run("rm", path / "zarr.json.bak")
        ),
    )
    assert branch.official("sed").attrs["factor"] == 43


def test_sed_cannot_break_metadata(branch, sources):
    """Anything but metadata is refused when it is put in the place of metadata."""
    run("cp", "-r", sources / "one", branch.path / "broken")
    before = (branch.path / "broken/zarr.json").read_bytes()
    run("sed", "-i", "s/node_type/type/", branch.path / "broken/zarr.json", code=4)
    assert (branch.path / "broken/zarr.json").read_bytes() == before
    branch.remove("broken")


def test_dd(branch, sources):
    """Whole chunks, parts of chunks and longer ones, with fsync."""
    chunk = "plain/c/1/1"
    branch.do(
        "dd",
        lambda path: run("cp", "-r", sources / "one", path),
        lambda path: run("dd", f"if={sources}/two/{chunk}", f"of={path / chunk}", "bs=128", "conv=fsync"),
        lambda path: run("dd", "if=/dev/zero", f"of={path / chunk}", "bs=40", "seek=3", "count=2",
                         "conv=notrunc,fdatasync"),
        lambda path: run("dd", f"if={sources}/two/plain/c/0/0", f"of={path}/plain/c/2/2", "oflag=append",
                         "conv=notrunc,fsync") + run("truncate", "-s", "400", path / "plain/c/2/2"),
    )  # fmt: skip
    expected = A[10:20, 10:20] * 2
    expected[3:5] = 0
    np.testing.assert_array_equal(branch.official("dd/plain")[10:20, 10:20], expected)
    np.testing.assert_array_equal(branch.official("dd/plain")[20:30, 20:30], A[20:30, 20:30])


@pytest.mark.parametrize(
    "commands",
    [
        ["rsync -aHAX --partial-dir=.partial {source}/ {path}/"],
        ["rsync -a --delay-updates {source}/ {path}/", "rsync -a --delay-updates --delete-delay {other}/ {path}/"],
        ["cp --preserve=all -r {source} {path} && chmod -R u+rwX,g-w {path} && chown -R 0:0 {path}"],
        ["mkdir {path} && tar cf - -C {source} . | tar --xattrs -xpf - -C {path}"],
        ["install -D -m 600 {source}/zarr.json {path}/zarr.json", "cp -r {source}/plain {path}"],
        ["cp -r {source} {path}", "mv {path}/plain {path}/t; mv {path}/g/sharded {path}/plain; mv {path}/t {path}/h"],
        ["cp -r {source} {path}", "rm -r {path}/g && cp -r {path}/plain {path}/g"],
        ["cp -r {source} {path}", "rm -r {path}/plain && cp -r {path}/g {path}/plain"],
        ["cp -r {source} {path}", "mv {path}/plain {scratch} && mv {scratch} {path}/back"],
        ["cp -r {source} {path}", ": > {path}/plain/c/0/0; cp {other}/plain/c/0/1 {path}/plain/c/0/0"],
    ],
    ids=lambda commands: " ".join(commands[-1].split()[:2]),
)
def test_what_is_typed_into_a_shell(branch, sources, tmp_path, commands):
    find_program("rsync")
    places = {"source": sources / "one", "other": sources / "two", "scratch": tmp_path / "scratch"}
    name = f"shell-{hashlib.sha256(str(commands).encode()).hexdigest()[:8]}"
    branch.do(name, *(lambda path, text=text: run("sh", "-ec", text.format(path=path, **places)) for text in commands))


def test_names_of_one_file_are_files_of_their_own_after_the_commit(branch, sources):
    """Icechunk has no hard links: until the commit they are one file, which is stored for each name."""
    place = branch.path / "linked"
    run("cp", "-r", sources / "one", place)
    run("cp", "-al", place / "plain", place / "again")
    chunk, again = place / "plain/c/0/0", place / "again/c/0/0"
    assert chunk.stat().st_nlink == 2
    assert chunk.stat().st_ino == again.stat().st_ino
    branch.commit("linked")
    assert chunk.stat().st_nlink == again.stat().st_nlink == 1
    assert chunk.stat().st_ino != again.stat().st_ino
    run("dd", "if=/dev/zero", f"of={again}", "bs=400", "count=1", "conv=notrunc")
    branch.commit("one of them")
    group = branch.official("linked")
    np.testing.assert_array_equal(group["plain"][:], A)
    assert not group["again"][:10, :10].any()
    np.testing.assert_array_equal(group["again"][10:], A[10:])


def test_git_checks_out_into_a_branch(branch, sources, tmp_path):
    """Its own directory lies elsewhere. It finds its checkout unchanged, before a commit as after it."""
    git = find_program("git")
    place = branch.path / "git"
    environment = {**os.environ, "GIT_DIR": str(tmp_path / "git"), "GIT_CONFIG_GLOBAL": os.devnull}

    def call(*command, tree=place):
        return run(git, "-c", "user.name=a", "-c", "user.email=a@b", "--work-tree", tree, *command, env=environment)

    call("init", "-q")
    for name in ("one", "two"):
        call("add", "-A", tree=sources / name)
        call("commit", "-qm", name, tree=sources / name)
        call("tag", name)
    place.mkdir()
    for name in ("one", "two", "one"):
        call("reset", "-q", "--hard", name)
        assert call("status", "--porcelain") == ""
        branch.commit(f"git {name}")
        assert call("diff-files") == call("status", "--porcelain") == ""
        assert branch.committed_files("git") == files_of(sources / name) == files_of(place)
