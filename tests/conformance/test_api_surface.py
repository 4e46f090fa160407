"""Every public name, method and parameter of the official library is there, but for what is listed with its reason."""

import inspect
from typing import Any

import icechunk
import pytest

import icefs

MODULES = {
    "config", "conflicts", "credentials", "ops", "repository", "session", "snapshots", "storage", "store", "types",
    "virtual",
}  # fmt: skip
UNREACHED = ("azure", "gcs", "hf_")

# By class, or "" for the module.
MISSING: dict[str, dict[str, str]] = {
    "": {
        "redirect_storage": "a server should not say which bucket's keys are used",
    },
    "GCSummary": dict.fromkeys(
        ("throttled_batches", "delete_errors", "skipped_phases"), "icefs counts what was not deleted, and goes on"
    ),
    "IcechunkStore": {"set_partial_values": "the official one has no such thing either: it raises"},
    "Credentials": dict.fromkeys(("Azure", "Gcs"), "not reached"),
    "Storage": {
        "default_settings": "settings are the configuration's",
        "list_objects_metadata": "list_objects has it all",
        **dict.fromkeys(
            (
                "new_azure_blob",
                "new_gcs",
                "new_hf",
                "new_http",
                "new_in_memory",
                "new_local_filesystem",
                "new_r2",
                "new_redirect",
                "new_s3",
                "new_s3_object_store",
                "new_tigris",
            ),
            "the functions of the module make them",
        ),
    },
    "ManifestPreloadCondition": dict.fromkeys(
        ("And", "False", "NameMatches", "NumRefs", "Or", "PathMatches", "True"), "functions of lower case make them"
    ),
    "ManifestSplitCondition": dict.fromkeys(
        ("And", "NameMatches", "Or", "PathMatches"), "functions of lower case make them"
    ),
}
# Parameters of functions and methods that are there.
OTHERWISE = {
    "Storage.list_objects": "the engine's own",
    "r2_storage": "the rest is s3_storage's, as **options",
    "tigris_storage": "the rest is s3_storage's, as **options",
}
CLASSES = sorted(name for name in icechunk.__all__ if inspect.isclass(getattr(icechunk, name)) and hasattr(icefs, name))


def is_error(cls: Any) -> bool:
    return issubclass(cls, BaseException)


def public(value: Any) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def test_names_of_the_module():
    official = set(icechunk.__all__) | public(icechunk)
    missing = {name for name in official if not hasattr(icefs, name)} - MODULES
    unreached = {name for name in missing if any(part in name.lower() for part in UNREACHED)}
    assert missing - unreached == MISSING[""].keys()
    for name in unreached:
        with pytest.raises(AttributeError, match="does not reach"):
            getattr(icefs, name)


@pytest.mark.parametrize("name", CLASSES)
def test_members_of_a_class(name: str):
    official, ours = getattr(icechunk, name), getattr(icefs, name)
    missing = {each for each in public(official) if not hasattr(ours, each)}
    if is_error(official):
        missing -= {"kind", "message"}
        assert {"kind", "message"} <= public(ours("what happened"))
    fields = getattr(ours, "__dataclass_fields__", {})
    assert missing - set(fields) == MISSING.get(name, {}).keys()


def functions() -> list[tuple[str, Any, Any]]:
    found = [
        (name, getattr(icechunk, name), getattr(icefs, name))
        for name in icechunk.__all__
        if hasattr(icefs, name) and inspect.isroutine(getattr(icechunk, name))
    ]
    for cls in ("ForkSession", "IcechunkStore", "Repository", "Session", "Storage"):
        official, ours = getattr(icechunk, cls), getattr(icefs, cls)
        for name in sorted(public(official) & public(ours)):
            if callable(getattr(official, name)):
                found.append((f"{cls}.{name}", getattr(official, name), getattr(ours, name)))
    return found


@pytest.mark.parametrize(("name", "official", "ours"), functions(), ids=[name for name, *_ in functions()])
def test_parameters_of_a_function(name: str, official: Any, ours: Any):
    theirs, mine = (dict(inspect.signature(each).parameters) for each in (official, ours))
    same = all(
        parameter in mine
        and (mine[parameter].kind, repr(mine[parameter].default)) == (wanted.kind, repr(wanted.default))
        for parameter, wanted in theirs.items()
    )
    positional = [
        [parameter.name for parameter in each.values() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
        for each in (theirs, mine)
    ]
    same = same and positional[0] == positional[1][: len(positional[0])]
    assert same != (name in OTHERWISE), (theirs, mine)


def test_what_is_listed_is_missing_still():
    for cls, names in MISSING.items():
        ours = getattr(icefs, cls) if cls else icefs
        assert not [name for name in names if hasattr(ours, name)]
