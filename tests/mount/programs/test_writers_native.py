"""Programs in C++, Rust and JavaScript write to a mounted branch, each in its own manner."""

import json
import shutil
import warnings

import numpy as np
import pytest
import zarr

from tests.support.programs import files_of, run_zarrita, start_python, wait_all

WHOLE = True
A = np.random.default_rng(2).integers(1, 60000, (48, 64)).astype("u2")
PACKED = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}]
SHARDED = [
    {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [4, 8],
            "codecs": PACKED,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        },
    }
]


@pytest.fixture(autouse=True)
def _quiet():
    # What the libraries have to say is not our business.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# tensorstore: lock files that are renamed while they are locked, fsync of files and directories.


def tensorstore(path, locking="os", codecs=None, **options):
    import tensorstore as ts

    grid = {"name": "regular", "configuration": {"chunk_shape": [16, 16]}}
    metadata = {"metadata": {"chunk_grid": grid, "codecs": codecs}} if codecs else {}
    kvstore = {"driver": "file", "path": f"{path}/", "file_io_locking": {"mode": locking}}
    return ts.open({"driver": "zarr3", "kvstore": kvstore, **metadata}, **options).result()


@pytest.mark.parametrize("locking", ["os", "lockfile", "none"])
@pytest.mark.parametrize("codecs", [PACKED, SHARDED], ids=["plain", "sharded"])
def test_tensorstore_writes_rewrites_grows_and_deletes(branch, locking, codecs):
    import tensorstore as ts

    def create(path):
        tensorstore(path, locking, codecs, create=True, dtype="uint16", shape=A.shape).write(A).result()

    def change(path):
        array = tensorstore(path, locking, open=True)
        array[5:30, 7:20].write(np.uint16(9)).result()
        array[32:48, 48:64].write(np.uint16(0)).result()  # a chunk of fill values: its file goes
        array.resize(exclusive_max=[64, 48]).result()[48:].write(np.uint16(5)).result()

    def delete(path):
        store = ts.KvStore.open({"driver": "file", "path": f"{path}/", "file_io_locking": {"mode": locking}}).result()
        store.delete_range(ts.KvStore.KeyRange("c/0/", "c/1/")).result()
        assert not [key for key in store.list().result() if key.endswith(b"__lock")]

    name = f"tensorstore-{locking}-{codecs[0]['name']}"
    expected = np.zeros((64, 48), "u2")
    expected[:48] = A[:, :48]
    expected[5:30, 7:20] = 9
    expected[48:] = 5
    branch.do(name, create, change)
    assert "c/2/3" not in branch.committed_files(name)
    np.testing.assert_array_equal(branch.official(name)[:], expected)
    branch.do(name, delete)
    expected[:16] = 0
    np.testing.assert_array_equal(branch.official(name)[:], expected)
    np.testing.assert_array_equal(tensorstore(branch.path / name, locking, open=True).read().result(), expected)


def test_four_tensorstore_processes_write_one_array(branch):
    """Every chunk is read, changed and written by all of them, and none loses what another wrote."""
    program = """
import sys, numpy as np, tensorstore as ts
array = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": sys.argv[1] + "/"}}, open=True).result()
part = int(sys.argv[2])
for row in range(part, array.shape[0], 4):
    array[row].write(np.arange(row, row + array.shape[1], dtype="u2")).result()
"""
    place, shape = branch.path / "four", (24, 32)
    expected = np.add.outer(np.arange(24), np.arange(32)).astype("u2")
    for path in (branch.plain / "four", place):
        zarr.create_array(path, shape=shape, chunks=(4, 8), shards=(12, 16), dtype="u2")
    wait_all(start_python(program, place, part) for part in range(4))
    branch.commit("four processes")
    np.testing.assert_array_equal(branch.official("four")[:], expected)
    assert sorted(files_of(place)) == ["c/0/0", "c/0/1", "c/1/0", "c/1/1", "zarr.json"]
    assert files_of(place) == branch.committed_files("four")


def test_a_tensorstore_that_stays_open_over_commits_sees_what_others_write(branch):
    """Its cache goes by inode and time: a commit changes neither, a write changes both for it."""
    place = branch.path / "open"
    array = tensorstore(place, open=True, create=True, dtype="uint16", shape=[8, 8])
    array.write(np.uint16(1)).result()
    for value in (2, 3, 4):
        branch.commit(f"before {value}")
        other = zarr.open_array(place, mode="r+")
        other[:4] = value
        assert (array.read().result()[:4] == value).all()
        array[4:].write(np.uint16(value)).result()
        assert (other[:] == value).all()
    branch.commit("the last")
    assert (branch.official("open")[:] == 4).all()


# Rust: zarrs below zarr-python, and zarrista. Files are written in place, after O_TRUNC.


def test_zarrs_as_the_codec_pipeline_of_zarr_python(branch):
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 4}):

        def create(path):
            group = zarr.open_group(path, mode="w")
            for name, options in (("plain", {"chunks": (16, 16)}), ("sharded", {"chunks": (4, 8), "shards": (16, 16)})):
                group.create_array(name, shape=A.shape, dtype="u2", **options)[:] = A

        def change(path):
            group = zarr.open_group(path, mode="r+")
            for name in ("plain", "sharded"):
                group[name][5:30, 7:20] = 9
                group[name].resize((40, 70))
                group[name][:, 64:] = 8

        branch.do("zarrs", create, change)
        expected = np.pad(A[:40], ((0, 0), (0, 6)), constant_values=8)
        expected[5:30, 7:20] = 9
        for name in ("plain", "sharded"):
            np.testing.assert_array_equal(zarr.open_array(branch.path / "zarrs" / name)[:], expected)
    for name in ("plain", "sharded"):
        np.testing.assert_array_equal(branch.official(f"zarrs/{name}")[:], expected)


def test_zarrista(branch):
    from zarrista import Array, ArrayBuilder, ChunkGrid, DataType, FillValue, codec
    from zarrista.store import FilesystemStore

    def create(path):
        grid = ChunkGrid.regular(list(A.shape), chunk_shape=[16, 16])
        builder = ArrayBuilder(grid, DataType.from_string("uint16"), FillValue(b"\0\0"))
        array = builder.compressors([codec.zstd(3, checksum=False)]).create(FilesystemStore(path), "/")
        array.store_array_subset((slice(0, 48), slice(0, 64)), A)

    def change(path):
        array = Array.open(FilesystemStore(path), "/")
        array.store_array_subset((slice(5, 30), slice(7, 20)), np.full((25, 13), 9, "u2"))
        array.erase_chunk([2, 3])

    branch.do("zarrista", create, change)
    expected = A.copy()
    expected[5:30, 7:20] = 9
    expected[32:, 48:] = 0
    np.testing.assert_array_equal(branch.official("zarrista")[:], expected)


# GDAL: in place, the array's zarr.json first and once more at the end.


def test_gdal(branch):
    import rasterio

    def create(path):
        with rasterio.open(path, "w", driver="Zarr", FORMAT="ZARR_V3", width=64, height=48, count=1, dtype="uint16",
                           nodata=0, BLOCKSIZE="16,16", COMPRESS="ZSTD") as target:  # fmt: skip
            target.write(A, 1)

    def change(path):
        with rasterio.open(path, "r+") as target:
            target.write(np.full((10, 20), 9, "u2"), 1, window=((3, 13), (30, 50)))

    branch.do("gdal", create, change)
    expected = A.copy()
    expected[3:13, 30:50] = 9
    np.testing.assert_array_equal(branch.official("gdal/gdal")[:], expected)
    with rasterio.open(branch.path / "gdal") as source:
        np.testing.assert_array_equal(source.read(1), expected)


def test_gdal_is_told_at_once_that_version_2_cannot_be(branch):
    import rasterio

    with pytest.raises(rasterio.errors.RasterioError, match=r"\.zgroup"):
        rasterio.open(branch.path / "old", "w", driver="Zarr", width=64, height=48, count=1, dtype="uint16")
    (branch.path / "old").rmdir()


# acquire-zarr: chunks before their zarr.json and outside of its shape, which grows.


def acquire(path):
    import acquire_zarr as aqz

    def array(key, shards):
        sizes = (("t", aqz.DimensionType.TIME, 0, 2), ("y", aqz.DimensionType.SPACE, 48, 16),
                 ("x", aqz.DimensionType.SPACE, 64, 16))  # fmt: skip
        dimensions = [
            aqz.Dimension(name=name, kind=kind, array_size_px=size, chunk_size_px=chunk, shard_size_chunks=shards)
            for name, kind, size, chunk in sizes
        ]
        return aqz.ArraySettings(output_key=key, data_type=aqz.DataType.UINT16, dimensions=dimensions)

    # With one thread, and yet the order of chunks in a shard is not always the same.
    settings = aqz.StreamSettings(store_path=str(path), version=aqz.ZarrVersion.V3, overwrite=True, max_threads=1)
    settings.arrays = [array("plain", 1), array("sharded", 2)]
    return aqz.ZarrStream(settings)


def stream(path, frames):
    target = acquire(path)
    for frame in frames:
        for key in ("plain", "sharded"):
            target.append((A + frame)[None].astype("u2"), key)
    target.close()


def check_acquired(branch, name):
    """Commits, and compares the official library's view with the files as they are on the mount."""
    shutil.rmtree(branch.plain / name, ignore_errors=True)
    shutil.copytree(branch.path / name, branch.plain / name)
    branch.check_commit(name)


def test_acquire_zarr(branch):
    for frames in (range(7), range(3, 6)):
        stream(branch.path / "acquired", frames)
        check_acquired(branch, "acquired")
    for name in ("plain", "sharded"):
        found = branch.official(f"acquired/{name}")
        np.testing.assert_array_equal(found[:], np.stack([A + frame for frame in range(3, 6)]))


def test_acquire_zarr_while_others_commit(branch):
    """A commit in the midst of it takes what is whole, or says what is not; the last one has everything."""
    target = acquire(branch.path / "live")
    refused = 0
    for frame in range(9):
        for key in ("plain", "sharded"):
            target.append((A + frame)[None].astype("u2"), key)
        done = branch.rpc({"op": "commit", "message": f"frame {frame}"})
        if done["type"] == "error":
            assert done["kind"] in ("invalid-tree", "no-changes-to-commit"), done
            refused += 1
    target.close()
    check_acquired(branch, "live")
    for name in ("plain", "sharded"):
        np.testing.assert_array_equal(branch.official(f"live/{name}")[:], np.stack([A + frame for frame in range(9)]))
    assert refused


# z5: in place, after O_TRUNC.


def test_z5(branch):
    import z5py

    def create(path):
        file = z5py.File(path, "w", zarr_format=3)
        file.attrs["title"] = "z5"
        group = file.create_group("g")
        group.create_dataset("packed", data=A, chunks=(16, 16), compression="gzip")
        group.create_dataset("sharded", data=A, chunks=(8, 8), shards=(16, 16), compression="raw")

    def change(path):
        file = z5py.File(path, "a", zarr_format=3)
        for name in ("packed", "sharded"):
            file["g"][name][5:30, 7:20] = 9
        file["g"].attrs["changed"] = True

    branch.do("z5.zarr", create, change)
    expected = A.copy()
    expected[5:30, 7:20] = 9
    for name in ("packed", "sharded"):
        np.testing.assert_array_equal(branch.official(f"z5.zarr/g/{name}")[:], expected)
    assert branch.official("z5.zarr").attrs["title"] == "z5"


def test_z5_cannot_write_version_2(branch):
    """It does not look whether its metadata was written; the commit says that its files are no array."""
    import z5py

    z5py.File(branch.path / "z5-v2.zarr", "w").create_dataset("x", data=A, chunks=(16, 16))
    assert not list((branch.path / "z5-v2.zarr").rglob(".z*"))
    done = branch.rpc({"op": "commit", "message": "version 2"})
    assert (done["type"], done["kind"]) == ("error", "invalid-tree")
    assert "z5-v2.zarr/x/" in done["message"]
    branch.remove("z5-v2.zarr")


# zarrita.js: in place, many writes at once.


CREATE = """
const root = zarr.root(new FileSystemStore(args[0]));
await zarr.create(root, { attributes: { title: "zarrita" } });
for (const [name, codecs] of [["raw", []], ["packed", [{ name: "zstd", configuration: { level: 1 } }]]]) {
    const array = await zarr.create(root.resolve(name), {
        shape: [48, 64], chunkShape: [16, 16], dtype: "uint16", fillValue: 0,
        codecs: [{ name: "bytes", configuration: { endian: "little" } }, ...codecs],
    });
    const data = Uint16Array.from({ length: 48 * 64 }, (_, index) => index);
    await zarr.set(array, null, { data, shape: [48, 64], stride: [64, 1] });
}
"""
CHANGE = """
const root = zarr.root(new FileSystemStore(args[0]));
for (const name of ["raw", "packed"]) {
    const array = await zarr.open(root.resolve(name), { kind: "array" });
    await zarr.set(array, [zarr.slice(5, 30), zarr.slice(7, 20)], 9);
}
await new FileSystemStore(args[0]).delete("/raw/c/2/3");
"""


def test_zarrita(branch):
    branch.do("zarrita", lambda path: run_zarrita(CREATE, path), lambda path: run_zarrita(CHANGE, path))
    expected = np.arange(48 * 64, dtype="u2").reshape(48, 64)
    expected[5:30, 7:20] = 9
    np.testing.assert_array_equal(branch.official("zarrita/packed")[:], expected)
    expected[32:, 48:] = 0
    np.testing.assert_array_equal(branch.official("zarrita/raw")[:], expected)
    assert json.loads(branch.committed_files("zarrita")["zarr.json"])["attributes"] == {"title": "zarrita"}
