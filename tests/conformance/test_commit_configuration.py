"""What the configuration says of commits: splitting, thresholds, pages of the ops log."""

from pathlib import Path

import icechunk as ic
import pytest

from icefs.format.config.values import RepositoryConfig
from tests.conformance.official import GROUP, array_json
from tests.conformance.writers import EngineRepo, OfficialRepo, Pair, RepoWriter, SessionWriter, Virtual, facts_of, rows

ANY, AXIS, NAMED = (
    ic.ManifestSplitDimCondition.Any,
    ic.ManifestSplitDimCondition.Axis,
    ic.ManifestSplitDimCondition.DimensionName,
)
ARRAYS = ic.ManifestSplitCondition


def splitting(*rules: tuple[object, dict[object, int]]) -> ic.RepositoryConfig:
    split = ic.ManifestSplittingConfig.from_dict({condition: dict(sizes) for condition, sizes in rules})
    return ic.RepositoryConfig(manifest=ic.ManifestConfig(splitting=split))


SPLITTINGS = {
    "axis": lambda: splitting((ARRAYS.AnyArray(), {AXIS(0): 2})),
    "any": lambda: splitting((ARRAYS.AnyArray(), {ANY(): 3})),
    "one chunk each": lambda: splitting((ARRAYS.AnyArray(), {ANY(): 1})),
    "names": lambda: splitting(
        (ARRAYS.name_matches("^[xy]$"), {NAMED("lat"): 2, NAMED("^l"): 4}), (ARRAYS.AnyArray(), {AXIS(1): 2})
    ),
    "paths": lambda: splitting(
        (ARRAYS.path_matches("^/g/"), {ANY(): 2}), (ARRAYS.path_matches("x$"), {AXIS(0): 1, ANY(): 5})
    ),
    "and, or": lambda: splitting(
        (ARRAYS.and_conditions([ARRAYS.path_matches("g"), ARRAYS.name_matches("x")]), {AXIS(0): 2}),
        (ARRAYS.or_conditions([ARRAYS.path_matches("^/x$"), ARRAYS.name_matches("z")]), {AXIS(1): 2}),
    ),
    "rules that add up": lambda: splitting(
        (ARRAYS.name_matches("x"), {AXIS(1): 2}), (ARRAYS.AnyArray(), {AXIS(0): 4, AXIS(1): 1})
    ),
    "bad expressions": lambda: splitting((ARRAYS.name_matches("("), {ANY(): 1}), (ARRAYS.AnyArray(), {NAMED("["): 1})),
    "none": lambda: splitting(),
}


def split_steps(repo: RepoWriter) -> None:
    def make(s: SessionWriter) -> None:
        for path in ("/x", "/g/x", "/g/z"):
            s.node(path, array_json([6, 5], [1, 1], dimension_names=["lat", "lon"]))
            s.chunks(path, {index: repr(index).encode() for index in rows(6, 5) if sum(index) % 3})

    repo.write(make, "made")

    def change(s: SessionWriter) -> None:
        s.chunk("/x", (5, 4), b"corner")
        s.drop("/x", *[(0, column) for column in range(5)])
        s.drop("/g/x", *rows(3, 3))
        s.chunk("/g/z", (2, 2), b"middle")

    repo.write(change, "changed")

    def resize(s: SessionWriter) -> None:
        s.node("/x", array_json([3, 5], [1, 1], dimension_names=["lat", "lon"]))
        s.node("/g/x", array_json([9, 7], [1, 1], dimension_names=["lat", "lon"]))
        s.chunk("/g/x", (8, 6), b"new corner")
        s.node("/g/z", array_json([6, 5], [1, 1], dimension_names=["p", "q"]))

    repo.write(resize, "resized")
    repo.write(lambda s: s.drop("/x", *rows(3, 5)), "emptied")


def official_config(path: Path, config: ic.RepositoryConfig) -> RepositoryConfig:
    from tests.conformance.writers import same_config

    return same_config(config, path)


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("name", SPLITTINGS)
def test_manifests_are_split_alike(base, tmp_path, name, spec_version):
    config = SPLITTINGS[name]()
    ours = official_config(tmp_path / "config", config)
    pair = Pair.of(base(spec_version), tmp_path / "pair", config=config, our_config=ours)
    pair.run(split_steps)
    pair.check()


def test_another_splitting_in_between(base, tmp_path):
    """The official library keeps a manifest that lies in one box of the new splitting, and cuts up others."""
    configs = [SPLITTINGS[name]() for name in ("any", "axis", "one chunk each", "none", "names")]
    pair = Pair.of(base(2), tmp_path / "pair")
    grid = array_json([6, 5], [1, 1], dimension_names=["lat", "lon"])
    for turn, config in enumerate(configs):
        ours = official_config(tmp_path / f"config{turn}", config)

        def change(s: SessionWriter, turn: int = turn) -> None:
            if turn == 0:
                s.node("/x", grid)
                s.chunks("/x", {index: repr(index).encode() for index in rows(6, 5)})
            s.chunk("/x", (turn, turn), b"turn")
            s.drop("/x", (5 - turn, turn))

        pair.reopen(config=config, our_config=ours).run(
            lambda repo, change=change, turn=turn: repo.write(change, f"turn {turn}")
        )
    pair.check()


@pytest.mark.parametrize("threshold", [0, 3, 600])
def test_small_chunks_are_inline_alike(base, tmp_path, threshold):
    config = ic.RepositoryConfig(inline_chunk_threshold_bytes=threshold)
    pair = Pair.of(
        base(2),
        tmp_path / "pair",
        config=config,
        our_config=RepositoryConfig(inline_chunk_threshold_bytes=threshold),
    )
    sizes = (1, 2, 3, 4, 511, 512, 513, 599, 600, 601)
    pair.run(
        lambda repo: repo.write(
            lambda s: (
                s.node("/n", array_json([len(sizes)], [1])),
                s.chunks("/n", {(at,): b"n" * size for at, size in enumerate(sizes)}),
            ),
            "sizes",
        )
    )
    pair.check()


@pytest.mark.parametrize("num_updates", [1, 2, 3, 7])
def test_the_ops_log_turns_its_pages_alike(base, tmp_path, num_updates):
    config = ic.RepositoryConfig(num_updates_per_repo_info_file=num_updates)
    pair = Pair.of(
        base(2),
        tmp_path / "pair",
        config=config,
        our_config=RepositoryConfig(num_updates_per_repo_info_file=num_updates),
    )

    def scenario(repo: RepoWriter) -> None:
        for turn in range(9):
            tip = repo.write(lambda s, turn=turn: s.chunk("/a", (0, 0), bytes([turn + 1])), f"turn {turn}")
            if turn % 3 == 0:
                repo.refs("create_tag", f"t{turn}", tip)

    pair.run(scenario)
    theirs, _ = pair.check()
    assert len(theirs["ops log"]) == 2 + 9 + 3


def test_the_configuration_that_we_save_is_the_one_that_is_read(base, tmp_path):
    for spec_version in (2, 1):
        config = SPLITTINGS["names"]()
        config.inline_chunk_threshold_bytes = 77
        ours = official_config(tmp_path / f"config{spec_version}", config)
        pair = Pair.of(base(spec_version), tmp_path / f"pair{spec_version}", config=config, our_config=ours)
        pair.run(lambda repo: repo.refs("save_config"))
        theirs, mine = (ic.Repository.fetch_config(ic.local_filesystem_storage(str(repo.path))) for repo in pair)
        theirs.storage = None  # Divergence 31
        assert repr(mine) == repr(theirs)
        # Without a configuration of their own, both take the one that is saved.
        pair.reopen().run(split_steps)
        pair.check(config=False)


def test_default_commit_metadata(base, tmp_path):
    pair = Pair.of(base(2), tmp_path / "pair")
    pair.official.raw.set_default_commit_metadata({"by": "default", "n": 1})
    pair.ours.raw.context.default_commit_metadata = {"by": "default", "n": 1}

    def scenario(repo: RepoWriter) -> None:
        repo.write(lambda s: s.node("/m", GROUP), "plain")
        repo.write(lambda s: s.node("/n", GROUP), "own", metadata={"by": "me"}, rebase_with="ours")
        session = repo.session()
        session.node("/o", GROUP)
        session.amend("amended")
        session = repo.session()
        session.node("/p", GROUP)
        session.flush("flushed")

    pair.run(scenario)
    theirs, _ = pair.check()
    assert theirs["snapshots"]["own"]["metadata"]["by"] == "me"


def test_locations_that_no_reader_can_decompress_stay_as_they_are(base, tmp_path):
    """The official writer compresses locations of more than 1024 bytes, and then cannot read its manifest."""
    pair = Pair.of(base(2), tmp_path / "pair")
    chunks = {(n,): Virtual(f"s3://bucket/{'d' * (1005 + n % 20)}/{n:04}", 0, 1) for n in range(1100)}
    pair.ours.write(lambda s: (s.node("/v", array_json([1100], [1])), s.virtual("/v", chunks)), "long")
    refs = facts_of(pair.ours.path)["snapshots"]["long"]["refs"]["/v"]
    assert {index: ref[1] for index, ref in refs.items()} == {index: chunk.location for index, chunk in chunks.items()}


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("saved", [False, True], ids=["default", "with config"])
def test_what_we_create_is_what_they_create(tmp_path, spec_version, saved):
    from icefs.engine.write.repository import WritableRepository
    from icefs.storage.local.store import LocalStorage

    theirs_config = ic.RepositoryConfig(inline_chunk_threshold_bytes=9) if saved else None
    ours_config = RepositoryConfig(inline_chunk_threshold_bytes=9) if saved else None
    ic.Repository.create(
        ic.local_filesystem_storage(str(tmp_path / "official")), config=theirs_config, spec_version=spec_version
    )
    WritableRepository.create(LocalStorage(tmp_path / "ours"), ours_config, spec_version=spec_version)
    pair = Pair(OfficialRepo(tmp_path / "official"), EngineRepo(tmp_path / "ours"))
    pair.check(config=False)
    files = [
        sorted(str(file.relative_to(repo.path)) for file in repo.path.rglob("*") if file.is_file()) for repo in pair
    ]
    assert files[0] == files[1]
    pair.run(lambda repo: repo.write(lambda s: s.node("/", GROUP), "first"))
    pair.check(config=False)
