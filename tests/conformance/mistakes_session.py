"""Mistakes with sessions: commits, rebases, forks, merges, moves, and what pickles keep."""

import pickle

import numpy as np

from tests.conformance.mistakes import At, collected, get, mistake, put, run
from tests.conformance.official import GROUP, array_json


@mistake
def commit_of_a_reading_session(at: At) -> object:
    return at.reading().commit("m")


@mistake
def commit_of_a_reading_session_asynchronously(at: At) -> object:
    return run(at.reading().commit_async("m"))


@mistake
def commit_of_nothing(at: At) -> object:
    return at.writing().commit("m")


@mistake
def commit_of_nothing_with_a_solver(at: At) -> object:
    return at.writing().commit("m", rebase_with=at.ic.ConflictDetector())


@mistake
def commit_without_message(at: At) -> object:
    return at.writing().commit()


@mistake
def commit_with_a_number_as_message(at: At) -> object:
    session = at.writing()
    put(session, "a/c/3/3")
    return session.commit(3)


@mistake
def commit_twice(at: At) -> object:
    session = at.writing()
    put(session, "a/c/3/3")
    session.commit("m")
    return session.commit("again")


@mistake
def commit_with_metadata_that_is_no_json(at: At) -> object:
    session = at.writing()
    put(session, "a/c/3/3")
    return session.commit("m", {"array": np.arange(3)})


@mistake
def commit_with_metadata_that_is_text(at: At) -> object:
    session = at.writing()
    put(session, "a/c/3/3")
    return session.commit("m", "text")


@mistake
def commit_after_another(at: At) -> object:
    return at.moved().commit("mine")


@mistake
def commit_after_another_asynchronously(at: At) -> object:
    return run(at.moved().commit_async("mine"))


@mistake
def commit_with_a_detector(at: At) -> object:
    return at.moved().commit("mine", rebase_with=at.ic.ConflictDetector())


@mistake
def commit_with_a_name_as_solver(at: At) -> object:
    return at.moved().commit("mine", rebase_with="ours")


@mistake
def commit_with_no_tries(at: At) -> object:
    return at.moved().commit("mine", rebase_with=at.ic.BasicConflictSolver(), rebase_tries=0)


@mistake
def commit_with_negative_tries(at: At) -> object:
    return at.moved().commit("mine", rebase_with=at.ic.BasicConflictSolver(), rebase_tries=-1)


@mistake
def commit_to_a_branch_that_was_deleted(at: At) -> object:
    session = at.repo.writable_session("dev")
    put(session, "a/c/3/3")
    at.repo.delete_branch("dev")
    return session.commit("m")


@mistake
def commit_to_a_branch_that_was_reset(at: At) -> object:
    session = at.repo.writable_session("dev")
    put(session, "a/c/3/3")
    at.repo.reset_branch("dev", "1CECHNKREP0F1RSTCMT0")
    return session.commit("m")


@mistake
def rebase_with_a_detector(at: At) -> object:
    return at.moved().rebase(at.ic.ConflictDetector())


@mistake
def rebase_with_a_detector_asynchronously(at: At) -> object:
    return run(at.moved().rebase_async(at.ic.ConflictDetector()))


@mistake
def rebase_with_nothing(at: At) -> object:
    return at.moved().rebase()


@mistake
def rebase_with_none(at: At) -> object:
    return at.moved().rebase(None)


@mistake
def rebase_with_a_class(at: At) -> object:
    return at.moved().rebase(at.ic.ConflictDetector)


@mistake
def rebase_of_a_reading_session(at: At) -> object:
    return at.reading().rebase(at.ic.ConflictDetector())


@mistake
def rebase_with_a_strict_solver(at: At) -> object:
    solver = at.ic.BasicConflictSolver(on_chunk_conflict=at.ic.VersionSelection.Fail)
    return at.moved().rebase(solver)


@mistake
def rebase_of_two_new_arrays(at: At) -> object:
    session, other = at.writing(), at.writing()
    put(session, "n/zarr.json", array_json([1], [1]))
    put(other, "n/zarr.json", array_json([2], [1]))
    other.commit("other")
    return session.rebase(at.ic.BasicConflictSolver())


@mistake
def rebase_over_a_deletion(at: At) -> object:
    session, other = at.writing(), at.writing()
    put(session, "a/c/1/1")
    run(other.store.delete_dir("a"))
    other.commit("other")
    return session.rebase(at.ic.ConflictDetector())


@mistake
def rebase_of_two_metadata(at: At) -> object:
    session, other = at.writing(), at.writing()
    put(session, "a/zarr.json", array_json([8, 8], [2, 2], attributes={"mine": 1}))
    put(other, "a/zarr.json", array_json([8, 8], [2, 2], attributes={"theirs": 1}))
    other.commit("other")
    return session.rebase(at.ic.ConflictDetector())


@mistake
def a_solver_with_text(at: At) -> object:
    return at.ic.BasicConflictSolver(on_chunk_conflict="ours")


@mistake
def a_solver_with_an_unknown_option(at: At) -> object:
    return at.ic.BasicConflictSolver(on_conflict=at.ic.VersionSelection.UseOurs)


@mistake
def amend_of_the_first_commit(at: At) -> object:
    repo = at.ic.Repository.create(at.storage("new"))
    session = repo.writable_session("main")
    put(session, "zarr.json", GROUP)
    return session.amend("m")


@mistake
def amend_of_a_reading_session(at: At) -> object:
    return at.reading().amend("m")


@mistake
def amend_with_nothing(at: At) -> object:
    return at.writing().amend("m")


@mistake
def amend_after_another(at: At) -> object:
    return at.moved().amend("m")


@mistake
def amend_in_version_one(at: At) -> object:
    session = at.create("one", spec_version=1).writable_session("main")
    put(session, "a/c/3/3")
    return session.amend("m")


@mistake
def amend_with_a_solver(at: At) -> object:
    return at.writing().amend("m", rebase_with=at.ic.ConflictDetector())


@mistake
def flush_of_nothing(at: At) -> object:
    return len(at.writing().flush("m"))


@mistake
def flush_and_commit(at: At) -> object:
    session = at.writing()
    put(session, "a/c/3/3")
    session.flush("m")
    return session.commit("again")


@mistake
def write_through_a_reading_session(at: At) -> object:
    return put(at.reading(), "a/c/0/0")


@mistake
def write_after_the_commit(at: At) -> object:
    session = at.writing()
    put(session, "a/c/3/3")
    session.commit("m")
    return put(session, "a/c/3/2")


@mistake
def write_through_an_old_store_after_the_commit(at: At) -> object:
    session = at.writing()
    store = session.store
    put(session, "a/c/3/3")
    session.commit("m")
    return run(store.delete("a/c/3/3"))


@mistake
def read_after_the_commit(at: At) -> object:
    session = at.writing()
    put(session, "a/c/3/3")
    session.commit("m")
    return get(session, "a/c/3/3"), session.read_only, session.branch


@mistake
def discard_of_a_reading_session(at: At) -> object:
    return at.reading().discard_changes()


@mistake
def discard_and_commit(at: At) -> object:
    session = at.writing()
    put(session, "a/c/3/3")
    session.discard_changes()
    return session.commit("m")


@mistake
def move_in_a_writable_session(at: At) -> object:
    return at.writing().move("/a", "/z")


@mistake
def move_in_a_reading_session(at: At) -> object:
    return at.reading().move("/a", "/z")


@mistake
def move_of_nothing(at: At) -> object:
    return at.repo.rearrange_session("main").move("/nope", "/z")


@mistake
def move_over_a_node(at: At) -> object:
    return at.repo.rearrange_session("main").move("/a", "/g")


@mistake
def move_into_itself(at: At) -> object:
    return at.repo.rearrange_session("main").move("/g", "/g/inside")


@mistake
def move_below_nothing(at: At) -> object:
    return at.repo.rearrange_session("main").move("/a", "/x/y")


@mistake
def move_below_an_array(at: At) -> object:
    return at.repo.rearrange_session("main").move("/g", "/a/g")


@mistake
def move_of_a_relative_path(at: At) -> object:
    return at.repo.rearrange_session("main").move("a", "/z")


@mistake
def move_to_a_relative_path(at: At) -> object:
    return at.repo.rearrange_session("main").move("/a", "z")


@mistake
def move_of_the_root(at: At) -> object:
    return at.repo.rearrange_session("main").move("/", "/z")


@mistake
def write_in_a_rearrange_session(at: At) -> object:
    return put(at.repo.rearrange_session("main"), "a/c/0/0")


@mistake
def delete_in_a_rearrange_session(at: At) -> object:
    return run(at.repo.rearrange_session("main").store.delete("a/zarr.json"))


@mistake
def fork_of_a_reading_session(at: At) -> object:
    return at.reading().fork()


@mistake
def fork_of_a_rearrange_session(at: At) -> object:
    return type(at.repo.rearrange_session("main").fork()).__name__


@mistake
def fork_of_a_session_with_changes(at: At) -> object:
    session = at.writing()
    put(session, "a/c/3/3")
    return type(session.fork()).__name__


@mistake
def commit_of_a_fork(at: At) -> object:
    fork = at.writing().fork()
    put(fork, "a/c/3/3")
    return fork.commit("m")


@mistake
def amend_of_a_fork(at: At) -> object:
    fork = at.writing().fork()
    put(fork, "a/c/3/3")
    return fork.amend("m")


@mistake
def rebase_of_a_fork(at: At) -> object:
    fork = at.writing().fork()
    return fork.rebase(at.ic.ConflictDetector())


@mistake
def merge_of_a_writable_session(at: At) -> object:
    session, other = at.writing(), at.writing()
    put(other, "a/c/3/3")
    return session.merge(other)


@mistake
def merge_of_a_reading_session(at: At) -> object:
    return at.writing().merge(at.reading())


@mistake
def merge_into_a_reading_session(at: At) -> object:
    fork = at.writing().fork()
    put(fork, "a/c/3/3")
    return at.reading().merge(fork)


@mistake
def merge_of_a_session_into_a_fork(at: At) -> object:
    session = at.writing()
    return session.fork().merge(session)


@mistake
def merge_of_text(at: At) -> object:
    return at.writing().merge("fork")


@mistake
def merge_of_nothing(at: At) -> object:
    return at.writing().merge()


@mistake
def merge_of_forks_that_made_one_node(at: At) -> object:
    session = at.writing()
    one, two = (pickle.loads(pickle.dumps(session.fork())) for _ in range(2))
    put(one, "n/zarr.json", array_json([1], [1]))
    put(two, "n/zarr.json", array_json([2], [1]))
    return session.merge(one, two)


@mistake
def pickle_of_a_writable_session(at: At) -> object:
    return pickle.dumps(at.writing())


@mistake
def pickle_of_a_writable_store(at: At) -> object:
    return pickle.dumps(at.writing().store)


@mistake
def pickle_of_a_writable_session_with_changes(at: At) -> object:
    session = at.writing()
    put(session, "a/c/3/3")
    return pickle.dumps(session)


@mistake
def write_through_a_pickled_reading_session(at: At) -> object:
    session = pickle.loads(pickle.dumps(at.reading()))
    return put(session, "a/c/3/3")


@mistake
def write_through_a_pickled_reading_store(at: At) -> object:
    store = pickle.loads(pickle.dumps(at.reading().store))
    return put(store.session, "a/c/3/3")


@mistake
def commit_of_a_session_after_its_fork_was_merged(at: At) -> object:
    session = at.writing()
    fork = pickle.loads(pickle.dumps(session.fork()))
    put(fork, "a/c/3/3")
    session.merge(fork)
    session.commit("m")
    return get(at.reading(), "a/c/3/3"), fork.has_uncommitted_changes


@mistake
def a_session_of_a_snapshot_that_was_collected_meanwhile(at: At) -> object:
    import datetime as dt

    at.repo.delete_tag("kept")
    at.repo.delete_branch("dev")
    session = at.writing()
    put(session, "a/c/3/3")
    old = pickle.dumps(at.reading())
    at.repo.reset_branch("main", "1CECHNKREP0F1RSTCMT0")
    at.repo.garbage_collect(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=5))
    fresh = pickle.loads(old)
    return get(fresh, "a/zarr.json")


@mistake
def shift_by_too_few_axes(at: At) -> object:
    return at.writing().shift_array("/a", [1, 1, 1])


@mistake
def shift_of_a_group(at: At) -> object:
    return at.writing().shift_array("/g", [1])


@mistake
def shift_of_nothing(at: At) -> object:
    return at.writing().shift_array("/nope", [1])


@mistake
def shift_in_a_reading_session(at: At) -> object:
    return at.reading().shift_array("/a", [1, 1])


@mistake
def shift_by_fractions(at: At) -> object:
    return at.writing().shift_array("/a", [0.5, 0.5])


@mistake
def reindex_of_a_group(at: At) -> object:
    return at.writing().reindex_array("/g", lambda index: index)


@mistake
def reindex_in_a_reading_session(at: At) -> object:
    return at.reading().reindex_array("/a", lambda index: index)


@mistake
def reindex_without_function(at: At) -> object:
    return at.writing().reindex_array("/a")


@mistake
def node_id_of_nothing(at: At) -> object:
    return at.reading().get_node_id("/nope")


@mistake
def node_id_of_a_relative_path(at: At) -> object:
    return at.reading().get_node_id("a")


@mistake
def chunk_type_of_a_group(at: At) -> object:
    return at.reading().chunk_type("/g", [0])


@mistake
def chunk_type_of_nothing(at: At) -> object:
    return at.reading().chunk_type("/nope", [0])


@mistake
def chunk_type_with_too_few_axes(at: At) -> object:
    return at.reading().chunk_type("/a", [0])


@mistake
def chunk_type_outside_of_the_array(at: At) -> object:
    return at.reading().chunk_type("/a", [100, 100])


@mistake
def chunk_type_at_a_negative_index(at: At) -> object:
    return at.reading().chunk_type("/a", [-1, 0])


@mistake
def chunk_coordinates_of_a_group(at: At) -> object:
    return collected(at.reading().chunk_coordinates("/g"))


@mistake
def chunk_coordinates_of_nothing(at: At) -> object:
    return collected(at.reading().chunk_coordinates("/nope"))


@mistake
def a_session_compared_with_text(at: At) -> object:
    return at.reading() == "session"


@mistake
def a_session_as_a_key(at: At) -> object:
    return len({at.reading(): 1})
