"""Mistakes with repositories, branches, tags, history and upkeep."""

from datetime import UTC, datetime, timedelta

from tests.conformance.mistakes import FIRST, NOBODY, At, collected, mistake, put, run

_LATER = datetime(2090, 1, 1, tzinfo=UTC)
_BEFORE = datetime(2001, 1, 1, tzinfo=UTC)


@mistake
def open_where_nothing_is(at: At) -> object:
    return at.ic.Repository.open(at.storage("nothing"))


@mistake
def open_asynchronously_where_nothing_is(at: At) -> object:
    return run(at.ic.Repository.open_async(at.storage("nothing")))


@mistake
def open_without_storage(at: At) -> object:
    return at.ic.Repository.open()


@mistake
def open_a_path_as_text(at: At) -> object:
    return at.ic.Repository.open(str(at.path))


@mistake
def open_with_a_dictionary_as_configuration(at: At) -> object:
    storage = at.storage()
    at.create()
    return at.ic.Repository.open(storage, {"inline_chunk_threshold_bytes": 1})


@mistake
def open_with_an_unknown_option(at: At) -> object:
    return at.ic.Repository.open(at.storage(), configuration=None)


@mistake
def create_over_another(at: At) -> object:
    at.create()
    return at.ic.Repository.create(at.storage())


@mistake
def create_over_another_asynchronously(at: At) -> object:
    at.create()
    return run(at.ic.Repository.create_async(at.storage()))


@mistake
def create_over_another_without_looking(at: At) -> object:
    at.create()
    return at.ic.Repository.create(at.storage(), check_clean_root=False)


@mistake
def create_among_files(at: At) -> object:
    (at.path / "repo").mkdir()
    (at.path / "repo" / "notes.txt").write_text("mine")
    return at.ic.Repository.create(at.storage())


@mistake
def create_of_version_nine(at: At) -> object:
    return at.ic.Repository.create(at.storage(), spec_version=9)


@mistake
def create_of_version_two_as_text(at: At) -> object:
    return at.ic.Repository.create(at.storage(), spec_version="2")


@mistake
def create_by_the_name_of_a_constructor(at: At) -> object:
    return at.ic.Repository(at.storage()).list_branches()


@mistake
def fetch_the_configuration_of_nothing(at: At) -> object:
    return at.ic.Repository.fetch_config(at.storage("nothing"))


@mistake
def fetch_the_version_of_nothing(at: At) -> object:
    return at.ic.Repository.fetch_spec_version(at.storage("nothing"))


@mistake
def look_whether_nothing_exists(at: At) -> object:
    return at.ic.Repository.exists(at.storage("nothing"))


@mistake
def read_a_damaged_repository(at: At) -> object:
    at.create()
    (at.path / "repo" / "repo").write_bytes(b"nonsense")
    return at.ic.Repository.open(at.storage())


@mistake
def read_a_repository_that_is_cut_off(at: At) -> object:
    at.create()
    file = at.path / "repo" / "repo"
    file.write_bytes(file.read_bytes()[:45])
    return at.ic.Repository.open(at.storage())


@mistake
def read_a_snapshot_that_was_removed(at: At) -> object:
    repo = at.create()
    tip = repo.lookup_branch("main")
    (at.path / "repo" / "snapshots" / tip).unlink()
    fresh = at.ic.Repository.open(at.storage())
    return fresh.readonly_session("main")


@mistake
def lookup_of_an_unknown_branch(at: At) -> object:
    return at.repo.lookup_branch("nope")


@mistake
def lookup_of_an_unknown_branch_asynchronously(at: At) -> object:
    return run(at.repo.lookup_branch_async("nope"))


@mistake
def lookup_of_an_unknown_tag(at: At) -> object:
    return at.repo.lookup_tag("nope")


@mistake
def lookup_of_a_deleted_tag(at: At) -> object:
    return at.repo.lookup_tag("gone")


@mistake
def lookup_of_a_number(at: At) -> object:
    return at.repo.lookup_branch(3)


@mistake
def lookup_of_an_unknown_snapshot(at: At) -> object:
    return at.repo.lookup_snapshot(NOBODY)


@mistake
def lookup_of_a_malformed_snapshot(at: At) -> object:
    return at.repo.lookup_snapshot("nope")


@mistake
def lookup_of_none(at: At) -> object:
    return at.repo.lookup_snapshot(None)


@mistake
def a_branch_that_is_there(at: At) -> object:
    return at.repo.create_branch("dev", at.tip())


@mistake
def a_branch_at_an_unknown_snapshot(at: At) -> object:
    return at.repo.create_branch("new", NOBODY)


@mistake
def a_branch_at_a_malformed_snapshot(at: At) -> object:
    return at.repo.create_branch("new", "main")


@mistake
def a_branch_without_snapshot(at: At) -> object:
    return at.repo.create_branch("new")


@mistake
def a_branch_with_a_slash(at: At) -> object:
    at.repo.create_branch("a/b", at.tip())
    return sorted(at.repo.list_branches())


@mistake
def a_branch_with_no_name(at: At) -> object:
    return at.repo.create_branch("", at.tip())


@mistake
def deleting_main(at: At) -> object:
    return at.repo.delete_branch("main")


@mistake
def deleting_an_unknown_branch(at: At) -> object:
    return at.repo.delete_branch("nope")


@mistake
def deleting_a_branch_twice(at: At) -> object:
    at.repo.delete_branch("dev")
    return at.repo.delete_branch("dev")


@mistake
def resetting_an_unknown_branch(at: At) -> object:
    return at.repo.reset_branch("nope", at.tip())


@mistake
def resetting_to_an_unknown_snapshot(at: At) -> object:
    return at.repo.reset_branch("dev", NOBODY)


@mistake
def resetting_to_a_malformed_snapshot(at: At) -> object:
    return at.repo.reset_branch("dev", "HEAD~1")


@mistake
def resetting_from_elsewhere(at: At) -> object:
    return at.repo.reset_branch("dev", FIRST, from_snapshot_id=FIRST)


@mistake
def a_tag_that_is_there(at: At) -> object:
    return at.repo.create_tag("kept", at.tip())


@mistake
def a_tag_that_was_deleted(at: At) -> object:
    return at.repo.create_tag("gone", at.tip())


@mistake
def a_tag_of_an_unknown_snapshot(at: At) -> object:
    return at.repo.create_tag("new", NOBODY)


@mistake
def a_tag_of_a_branch_name(at: At) -> object:
    return at.repo.create_tag("new", "main")


@mistake
def deleting_an_unknown_tag(at: At) -> object:
    return at.repo.delete_tag("nope")


@mistake
def deleting_a_deleted_tag(at: At) -> object:
    return at.repo.delete_tag("gone")


@mistake
def ancestry_of_nothing(at: At) -> object:
    return list(at.repo.ancestry())


@mistake
def ancestry_of_two_things(at: At) -> object:
    return list(at.repo.ancestry(branch="main", tag="kept"))


@mistake
def ancestry_by_position(at: At) -> object:
    return list(at.repo.ancestry("main"))


@mistake
def ancestry_of_an_unknown_branch(at: At) -> object:
    return list(at.repo.ancestry(branch="nope"))


@mistake
def ancestry_of_an_unknown_tag(at: At) -> object:
    return list(at.repo.ancestry(tag="nope"))


@mistake
def ancestry_of_an_unknown_snapshot(at: At) -> object:
    return list(at.repo.ancestry(snapshot_id=NOBODY))


@mistake
def ancestry_of_an_unknown_branch_asynchronously(at: At) -> object:
    return collected(at.repo.async_ancestry(branch="nope"))


@mistake
def session_of_nothing(at: At) -> object:
    return at.repo.readonly_session()


@mistake
def session_of_two_things(at: At) -> object:
    return at.repo.readonly_session("main", tag="kept")


@mistake
def session_of_an_unknown_branch(at: At) -> object:
    return at.repo.readonly_session("nope")


@mistake
def session_of_an_unknown_tag(at: At) -> object:
    return at.repo.readonly_session(tag="nope")


@mistake
def session_of_an_unknown_snapshot(at: At) -> object:
    return at.repo.readonly_session(snapshot_id=NOBODY)


@mistake
def session_of_a_malformed_snapshot(at: At) -> object:
    return at.repo.readonly_session(snapshot_id="xyz")


@mistake
def session_before_the_first_commit(at: At) -> object:
    return at.repo.readonly_session("main", as_of=_BEFORE)


@mistake
def session_of_a_tag_at_a_time(at: At) -> object:
    return at.repo.readonly_session(tag="kept", as_of=_LATER)


@mistake
def session_at_a_time_without_zone(at: At) -> object:
    return at.repo.readonly_session("main", as_of=datetime(2090, 1, 1))


@mistake
def session_at_a_time_as_text(at: At) -> object:
    return at.repo.readonly_session("main", as_of="2090-01-01")


@mistake
def writing_to_an_unknown_branch(at: At) -> object:
    return at.repo.writable_session("nope")


@mistake
def writing_to_an_unknown_branch_asynchronously(at: At) -> object:
    return run(at.repo.writable_session_async("nope"))


@mistake
def writing_to_a_tag(at: At) -> object:
    return at.repo.writable_session("kept")


@mistake
def writing_to_none(at: At) -> object:
    return at.repo.writable_session(None)


@mistake
def rearranging_an_unknown_branch(at: At) -> object:
    return at.repo.rearrange_session("nope")


@mistake
def rearranging_version_one(at: At) -> object:
    return at.create("one", spec_version=1).rearrange_session("main")


@mistake
def transaction_on_an_unknown_branch(at: At) -> object:
    with at.repo.transaction("nope", message="m"):
        return None


@mistake
def transaction_without_message(at: At) -> object:
    with at.repo.transaction("main"):
        return None


@mistake
def transaction_that_writes_nothing(at: At) -> object:
    with at.repo.transaction("main", message="m"):
        pass


@mistake
def transaction_that_fails_leaves_nothing(at: At) -> object:
    try:
        with at.repo.transaction("main", message="m") as store:
            put(store.session, "a/c/3/3")
            raise LookupError("mine")
    except LookupError:
        return at.repo.lookup_snapshot(at.tip()).message


@mistake
def diff_of_nothing(at: At) -> object:
    return at.repo.diff()


@mistake
def diff_backwards(at: At) -> object:
    return at.repo.diff(from_branch="main", to_snapshot_id=FIRST)


@mistake
def diff_of_an_unknown_tag(at: At) -> object:
    return at.repo.diff(from_tag="nope", to_branch="main")


@mistake
def diff_to_an_unknown_snapshot(at: At) -> object:
    return at.repo.diff(from_snapshot_id=FIRST, to_snapshot_id=NOBODY)


@mistake
def expire_by_an_age(at: At) -> object:
    return at.repo.expire_snapshots(timedelta(days=1))


@mistake
def expire_without_zone(at: At) -> object:
    return at.repo.expire_snapshots(datetime(2090, 1, 1))


@mistake
def expire_nothing(at: At) -> object:
    return at.repo.expire_snapshots(_BEFORE)


@mistake
def read_an_expired_snapshot(at: At) -> object:
    session = at.writing()
    put(session, "a/c/2/2")
    session.commit("second")
    old = [info.id for info in at.repo.ancestry(branch="main")][1]
    at.repo.delete_branch("dev")
    at.repo.delete_tag("kept")
    at.repo.expire_snapshots(_LATER)
    return at.repo.readonly_session(snapshot_id=old).snapshot_id == old


@mistake
def read_a_collected_snapshot(at: At) -> object:
    session = at.writing()
    put(session, "a/c/2/2")
    session.commit("second")
    old = [info.id for info in at.repo.ancestry(branch="main")][1]
    at.repo.delete_branch("dev")
    at.repo.delete_tag("kept")
    at.repo.expire_snapshots(_LATER)
    at.repo.garbage_collect(datetime.now(UTC) + timedelta(seconds=5))
    return at.repo.readonly_session(snapshot_id=old)


@mistake
def collect_without_a_time(at: At) -> object:
    return at.repo.garbage_collect()


@mistake
def collect_without_zone(at: At) -> object:
    return at.repo.garbage_collect(datetime(2001, 1, 1))


@mistake
def collect_by_text(at: At) -> object:
    return at.repo.garbage_collect("2001-01-01")


@mistake
def collect_with_no_deletes_at_once(at: At) -> object:
    return at.repo.garbage_collect(_BEFORE, max_concurrent_deletes=0)


@mistake
def collect_with_no_snapshots_in_memory(at: At) -> object:
    return at.repo.garbage_collect(_BEFORE, max_snapshots_in_memory=0)


@mistake
def collect_with_a_negative_limit(at: At) -> object:
    return at.repo.garbage_collect(_BEFORE, max_concurrent_manifest_fetches=-1)


@mistake
def collect_nothing(at: At) -> object:
    summary = at.repo.garbage_collect(_BEFORE)
    return summary.snapshots_deleted, summary.chunks_deleted, summary.bytes_deleted


@mistake
def rewrite_an_unknown_branch(at: At) -> object:
    return at.repo.rewrite_manifests("m", branch="nope")


@mistake
def rewrite_without_a_branch(at: At) -> object:
    return at.repo.rewrite_manifests("m")


@mistake
def rewrite_in_an_unknown_way(at: At) -> object:
    return at.repo.rewrite_manifests("m", branch="main", commit_method="squash")


@mistake
def rewrite_by_amending_the_first_commit(at: At) -> object:
    repo = at.ic.Repository.create(at.storage("new"))
    return repo.rewrite_manifests("m", branch="main", commit_method="amend")


@mistake
def sizes_by_the_old_name(at: At) -> object:
    return at.repo.total_chunks_storage()


@mistake
def sizes_by_the_old_name_asynchronously(at: At) -> object:
    return run(at.repo.total_chunks_storage_async())


@mistake
def an_unknown_feature_flag(at: At) -> object:
    return at.repo.set_feature_flag("nope", True)


@mistake
def a_feature_that_is_switched_off(at: At) -> object:
    at.repo.set_feature_flag("create_tag", False)
    return at.repo.create_tag("new", at.tip())


@mistake
def moving_while_it_is_switched_off(at: At) -> object:
    at.repo.set_feature_flag("move_node", False)
    session = at.repo.rearrange_session("main")
    return session.move("/a", "/z")


@mistake
def writing_while_the_repository_is_read_only(at: At) -> object:
    ic = at.ic
    at.repo.set_status(
        ic.RepoStatus(availability=ic.RepoAvailability.read_only, set_at=_BEFORE, limited_availability_reason="work")
    )
    return at.repo.writable_session("main")


@mistake
def a_tag_while_the_repository_is_read_only(at: At) -> object:
    ic, tip = at.ic, at.tip()
    at.repo.set_status(
        ic.RepoStatus(availability=ic.RepoAvailability.read_only, set_at=_BEFORE, limited_availability_reason="work")
    )
    return at.repo.create_tag("new", tip)


@mistake
def a_status_that_is_no_status(at: At) -> object:
    return at.repo.set_status("offline")


@mistake
def metadata_that_is_no_json(at: At) -> object:
    return at.repo.set_metadata({"when": _LATER})


@mistake
def metadata_that_is_a_list(at: At) -> object:
    return at.repo.set_metadata(["a"])


@mistake
def metadata_of_version_one(at: At) -> object:
    return at.create("one", spec_version=1).get_metadata()


@mistake
def status_of_version_one(at: At) -> object:
    return at.create("one", spec_version=1).status


@mistake
def updates_of_version_one(at: At) -> object:
    return list(at.create("one", spec_version=1).ops_log())


@mistake
def feature_flags_of_version_one(at: At) -> object:
    return at.create("one", spec_version=1).feature_flags()


@mistake
def upgrade_of_version_two(at: At) -> object:
    repo = at.repo
    return at.ic.upgrade_icechunk_repository(repo, dry_run=False)


@mistake
def upgrade_without_saying_whether_to(at: At) -> object:
    return at.ic.upgrade_icechunk_repository(at.repo)


@mistake
def default_commit_metadata_that_is_no_json(at: At) -> object:
    at.repo.set_default_commit_metadata({"set": {1, 2}})
    session = at.writing()
    put(session, "a/c/3/3")
    return session.commit("m")


@mistake
def inspect_an_unknown_snapshot(at: At) -> object:
    return at.repo.inspect_snapshot(NOBODY)


@mistake
def inspect_a_malformed_snapshot(at: At) -> object:
    return at.repo.inspect_snapshot("x")


@mistake
def inspect_an_unknown_manifest(at: At) -> object:
    return at.repo.inspect_manifest(NOBODY)


@mistake
def manifests_of_an_unknown_snapshot(at: At) -> object:
    return at.repo.list_manifest_files(NOBODY)


@mistake
def reopen_where_all_was_deleted(at: At) -> object:
    repo = at.create()
    (at.path / "repo" / "repo").unlink()
    return repo.reopen()


@mistake
def branches_where_all_was_deleted(at: At) -> object:
    repo = at.create()
    (at.path / "repo" / "repo").unlink()
    return repo.list_branches()
