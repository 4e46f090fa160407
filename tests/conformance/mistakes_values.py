"""Mistakes with storages, configurations, credentials and other values."""

import pickle
from datetime import UTC, datetime
from typing import Final

from tests.conformance.mistakes import At, mistake, run


@mistake
def a_local_storage_without_path(at: At) -> object:
    return at.ic.local_filesystem_storage()


@mistake
def a_local_storage_of_a_number(at: At) -> object:
    return at.ic.local_filesystem_storage(3)


@mistake
def a_local_storage_of_a_path(at: At) -> object:
    return at.ic.Repository.exists(at.ic.local_filesystem_storage(at.path))


@mistake
def an_s3_storage_without_bucket(at: At) -> object:
    return at.ic.s3_storage(prefix="p")


@mistake
def an_s3_storage_without_prefix(at: At) -> object:
    return at.ic.s3_storage(bucket="b")


@mistake
def an_s3_storage_by_position(at: At) -> object:
    return at.ic.s3_storage("b", "p")


@mistake
def an_s3_storage_with_two_kinds_of_credentials(at: At) -> object:
    return at.ic.s3_storage(bucket="b", prefix="p", from_env=True, anonymous=True)


@mistake
def an_s3_storage_with_half_a_pair_of_keys(at: At) -> object:
    return at.ic.s3_storage(bucket="b", prefix="p", access_key_id="a")


@mistake
def an_s3_storage_with_keys_and_a_function(at: At) -> object:
    return at.ic.s3_storage(bucket="b", prefix="p", access_key_id="a", secret_access_key="b", get_credentials=list)


@mistake
def a_tigris_storage_without_region(at: At) -> object:
    return type(at.ic.tigris_storage(bucket="b", prefix="p", anonymous=True)).__name__


@mistake
def an_r2_storage_of_nothing(at: At) -> object:
    return at.ic.r2_storage()


@mistake
def an_r2_storage_without_account(at: At) -> object:
    return at.ic.r2_storage(bucket="b", prefix="p")


@mistake
def a_gcs_storage_with_two_kinds_of_credentials(at: At) -> object:
    return type(at.ic.gcs_storage(bucket="b", prefix="p", bearer_token="t", anonymous=True)).__name__


@mistake
def an_azure_storage_without_container(at: At) -> object:
    return at.ic.azure_storage(account="a", prefix="p")


@mistake
def azure_credentials_of_two_kinds(at: At) -> object:
    return at.ic.azure_credentials(access_key="a", sas_token="b")


@mistake
def static_azure_credentials_of_nothing(at: At) -> object:
    return at.ic.azure_static_credentials()


@mistake
def static_gcs_credentials_of_nothing(at: At) -> object:
    return at.ic.gcs_static_credentials()


@mistake
def gcs_credentials_of_two_kinds(at: At) -> object:
    return type(at.ic.gcs_credentials(bearer_token="a", service_account_file="b")).__name__


@mistake
def s3_credentials_of_two_kinds(at: At) -> object:
    return at.ic.s3_credentials(anonymous=True, from_env=True)


@mistake
def s3_credentials_of_half_a_pair(at: At) -> object:
    return at.ic.s3_credentials(access_key_id="a")


@mistake
def static_s3_credentials_without_secret(at: At) -> object:
    return at.ic.s3_static_credentials(access_key_id="a")


@mistake
def static_s3_credentials_by_position(at: At) -> object:
    return at.ic.s3_static_credentials("a", "b")


@mistake
def s3_credentials_from_a_function_that_fails(at: At) -> object:
    def fails() -> object:
        raise LookupError("no keys here")

    return at.ic.s3_refreshable_credentials(fails, scatter_initial_credentials=True)


@mistake
def s3_credentials_from_a_lambda_that_is_pickled(at: At) -> object:
    return pickle.dumps(at.ic.s3_refreshable_credentials(lambda: None))


@mistake
def s3_credentials_from_a_number(at: At) -> object:
    ic = at.ic
    options = ic.S3Options(region="us-east-1", endpoint_url="http://127.0.0.1:9", allow_http=True)
    storage = ic.Storage.new_s3(options, "b", "p", ic.s3_refreshable_credentials(42))
    return ic.Repository.exists(storage)


@mistake
def default_settings_that_are_changed(at: At) -> object:
    settings = at.storage().default_settings()
    settings.concurrency.ideal_concurrent_request_size = 1_000_000
    settings.retries.max_tries = 42
    config = at.ic.RepositoryConfig(storage=settings)
    return config.storage.retries.max_tries, config.storage.concurrency.ideal_concurrent_request_size


@mistake
def default_settings_with_a_wrong_number(at: At) -> object:
    settings = at.storage().default_settings()
    settings.concurrency.ideal_concurrent_request_size = -1
    return settings


@mistake
def containers_with_text_as_credentials(at: At) -> object:
    return at.ic.containers_credentials({"s3://b/": "secret"})


@mistake
def containers_with_no_credentials(at: At) -> object:
    at.create()
    at.ic.Repository.open(at.storage(), authorize_virtual_chunk_access={"file:///data/": None})


_OLD: Final = {"file:///data/": None}


@mistake
def no_credentials_when_a_repository_is_created(at: At) -> object:
    at.ic.Repository.create(at.storage(), authorize_virtual_chunk_access=_OLD)


@mistake
def no_credentials_when_a_repository_is_opened_or_created(at: At) -> object:
    at.ic.Repository.open_or_create(at.storage(), authorize_virtual_chunk_access=_OLD)


@mistake
def no_credentials_when_a_repository_is_opened_again(at: At) -> object:
    at.create().reopen(authorize_virtual_chunk_access=_OLD)


@mistake
def no_credentials_asynchronously(at: At) -> object:
    run(at.ic.Repository.create_async(at.storage("a"), authorize_virtual_chunk_access=_OLD))
    run(at.ic.Repository.open_async(at.storage("a"), authorize_virtual_chunk_access=_OLD))
    run(at.ic.Repository.open_or_create_async(at.storage("a"), authorize_virtual_chunk_access=_OLD))
    run(run(at.ic.Repository.open_async(at.storage("a"))).reopen_async(authorize_virtual_chunk_access=_OLD))


@mistake
def objects_listed_in_the_old_way(at: At) -> object:
    at.create()
    return sorted(key.partition("/")[0] for key, _ in at.storage().list_objects())[:1]


@mistake
def objects_listed_with_settings(at: At) -> object:
    at.create()
    storage = at.storage()
    return len(storage.list_objects(storage.default_settings(), "refs"))


@mistake
def containers_with_raw_s3_credentials(at: At) -> object:
    at.create()
    access = {"s3://b/": at.ic.s3_anonymous_credentials()}
    at.ic.Repository.open(at.storage(), authorize_virtual_chunk_access=access)


@mistake
def containers_that_are_a_list(at: At) -> object:
    at.create()
    return at.ic.Repository.open(at.storage(), authorize_virtual_chunk_access=["s3://b/"])


@mistake
def a_container_without_slash(at: At) -> object:
    return at.ic.VirtualChunkContainer("s3://b/p", at.ic.s3_store("us-east-1")).url_prefix


@mistake
def a_container_without_scheme(at: At) -> object:
    return at.ic.VirtualChunkContainer("b/p/", at.ic.s3_store("us-east-1")).url_prefix


@mistake
def a_container_with_another_scheme_than_its_store(at: At) -> object:
    return at.ic.VirtualChunkContainer("gs://b/p/", at.ic.s3_store("us-east-1")).url_prefix


@mistake
def a_container_of_the_whole_disk(at: At) -> object:
    return at.ic.VirtualChunkContainer("file:///", at.ic.local_filesystem_store("/")).url_prefix


@mistake
def a_container_without_store(at: At) -> object:
    return at.ic.VirtualChunkContainer("s3://b/p/")


@mistake
def a_container_with_text_as_store(at: At) -> object:
    return at.ic.VirtualChunkContainer("s3://b/p/", "s3")


@mistake
def a_configuration_with_an_unknown_member(at: At) -> object:
    return at.ic.RepositoryConfig(chunk_size=1)


@mistake
def a_configuration_with_text_as_number(at: At) -> object:
    return at.ic.RepositoryConfig(inline_chunk_threshold_bytes="512")


@mistake
def a_configuration_with_a_negative_number(at: At) -> object:
    return at.ic.RepositoryConfig(inline_chunk_threshold_bytes=-1)


@mistake
def a_configuration_with_a_large_number(at: At) -> object:
    return at.ic.RepositoryConfig(inline_chunk_threshold_bytes=2**40)


@mistake
def a_configuration_with_a_fraction(at: At) -> object:
    return at.ic.RepositoryConfig(get_partial_values_concurrency=1.5)


@mistake
def a_member_set_to_text(at: At) -> object:
    config = at.ic.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = "512"
    return config


@mistake
def a_member_set_to_a_negative_number(at: At) -> object:
    config = at.ic.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = -5
    return config


@mistake
def an_unknown_member_that_is_set(at: At) -> object:
    config = at.ic.RepositoryConfig.default()
    config.chunk_size = 5
    return config


@mistake
def a_compression_of_an_unknown_algorithm(at: At) -> object:
    return at.ic.CompressionConfig(algorithm="lz4")


@mistake
def a_compression_of_level_999(at: At) -> object:
    return at.ic.CompressionConfig(level=999)


@mistake
def a_compression_of_a_negative_level(at: At) -> object:
    return at.ic.CompressionConfig(level=-1)


@mistake
def caching_of_negative_size(at: At) -> object:
    return at.ic.CachingConfig(num_chunk_refs=-1)


@mistake
def splitting_by_a_dictionary_of_text(at: At) -> object:
    return at.ic.ManifestSplittingConfig.from_dict({"a": 1})


@mistake
def splitting_of_negative_size(at: At) -> object:
    condition = at.ic.ManifestSplitCondition.path_matches("*")
    axis = at.ic.ManifestSplitDimCondition.Any()
    return at.ic.ManifestSplittingConfig.from_dict({condition: {axis: -1}})


@mistake
def a_condition_with_a_broken_expression(at: At) -> object:
    ic = at.ic
    condition = ic.ManifestSplitCondition.path_matches("(")
    splitting = ic.ManifestSplittingConfig.from_dict({condition: {ic.ManifestSplitDimCondition.Any(): 1}})
    config = ic.RepositoryConfig.default()
    config.manifest = ic.ManifestConfig(splitting=splitting)
    repo = at.create(config=config)
    return repo.list_branches() == {"main", "dev"}


@mistake
def preloading_by_text(at: At) -> object:
    return at.ic.ManifestPreloadConfig(max_total_refs="many")


@mistake
def a_preload_condition_of_the_wrong_type(at: At) -> object:
    return at.ic.ManifestPreloadCondition.num_refs("a", "b")


@mistake
def s3_options_with_a_number_as_region(at: At) -> object:
    return at.ic.S3Options(region=3)


@mistake
def s3_options_with_a_negative_timeout(at: At) -> object:
    return at.ic.S3Options(network_stream_timeout_seconds=-1)


@mistake
def settings_of_an_unknown_member(at: At) -> object:
    return at.ic.StorageSettings(speed=1)


@mistake
def concurrency_of_text(at: At) -> object:
    return at.ic.StorageConcurrencySettings(max_concurrent_requests_for_object="2")


@mistake
def retries_of_a_negative_number(at: At) -> object:
    return at.ic.StorageRetriesSettings(max_tries=-1)


@mistake
def a_virtual_chunk_specification_with_too_few_values(at: At) -> object:
    return at.ic.VirtualChunkSpec([0], "s3://b/x")


@mistake
def a_virtual_chunk_specification_with_a_negative_index(at: At) -> object:
    return at.ic.VirtualChunkSpec([-1], "s3://b/x", 0, 1)


@mistake
def a_chunk_type_of_nine(at: At) -> object:
    return at.ic.ChunkType(9)


@mistake
def a_version_of_nine(at: At) -> object:
    return at.ic.SpecVersion(9)


@mistake
def enumerations_and_numbers(at: At) -> object:
    ic = at.ic
    members = (
        *(ic.ChunkType.virtual, ic.SpecVersion.v2, ic.ConflictType.ChunkDoubleUpdate, ic.VersionSelection.UseOurs),
        *(ic.RepoAvailability.read_only, ic.CompressionAlgorithm.Zstd, ic.ChecksumAlgorithm.Sha256),
    )
    return [int(each) for each in members], ic.ChecksumAlgorithm.Crc32 == 0, ic.ConflictType(6) == members[2]


@mistake
def conditions_by_their_classes(at: At) -> object:
    split, load = at.ic.ManifestSplitCondition, at.ic.ManifestPreloadCondition
    return [
        each.Or([each.PathMatches("a"), each.And([each.NameMatches(regex="b")])])
        == each.or_conditions([each.path_matches("a"), each.and_conditions([each.name_matches("b")])])
        for each in (split, load)
    ]


@mistake
def a_kind_of_error_that_is_none(at: At) -> object:
    return at.ic.ErrorKind("nope")


@mistake
def an_error_without_message(at: At) -> object:
    return at.ic.IcechunkError()


@mistake
def a_conflict_that_is_pickled(at: At) -> object:
    error = pickle.loads(pickle.dumps(at.ic.ConflictError("a", "b")))
    return error.expected_parent, error.actual_parent, error.kind


@mistake
def a_rebase_failure_that_is_pickled(at: At) -> object:
    try:
        at.moved().rebase(at.ic.ConflictDetector())
    except at.ic.RebaseFailedError as error:
        copy = pickle.loads(pickle.dumps(error))
        return copy.snapshot == error.snapshot, len(copy.conflicts), copy.kind, copy.conflicts[0].path
    return None


@mistake
def a_value_that_is_changed(at: At) -> object:
    info = at.repo.lookup_snapshot(at.tip())
    info.message = "other"
    return info.message


@mistake
def a_name_that_no_library_has(at: At) -> object:
    return at.ic.open_repository


@mistake
def a_status_without_a_time(at: At) -> object:
    ic = at.ic
    return ic.RepoStatus(ic.RepoAvailability.online).availability == ic.RepoAvailability.online


@mistake
def a_status_with_text(at: At) -> object:
    return at.ic.RepoStatus("online", datetime(2001, 1, 1, tzinfo=UTC))


@mistake
def list_of_a_missing_prefix(at: At) -> object:
    at.create()
    return at.storage().list_objects(prefix="nope")


@mistake
def logs_by_a_number(at: At) -> object:
    return at.ic.set_logs_filter(3)
