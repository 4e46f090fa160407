"""`REPO@REF`."""

import pytest

from icefs.cli.support.locations import is_url, split_ref


@pytest.mark.parametrize(
    ("text", "location", "ref"),
    [
        ("s3://bucket/prefix", "s3://bucket/prefix", None),
        ("s3://bucket/prefix@main", "s3://bucket/prefix", "main"),
        ("s3://bucket@main", "s3://bucket", "main"),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c", None),
        ("s3://bucket/a@b/c@v1", "s3://bucket/a@b/c", "v1"),
        ("s3://bucket/p@main?region=x", "s3://bucket/p?region=x", "main"),
        (
            "s3://bucket/p?endpoint_url=http://127.0.0.1:9000@main",
            "s3://bucket/p?endpoint_url=http://127.0.0.1:9000",
            "main",
        ),
        ("s3://bucket/p?endpoint_url=http://me@host:9000", "s3://bucket/p?endpoint_url=http://me@host:9000", None),
        ("s3://bucket/p@v1?endpoint_url=http://me@host:9000", "s3://bucket/p?endpoint_url=http://me@host:9000", "v1"),
        ("https://me@host", "https://me@host", None),
        ("https://me@host/repo", "https://me@host/repo", None),
        ("https://me@host/repo@v1", "https://me@host/repo", "v1"),
        ("memory:", "memory:", None),
        ("memory:name@main", "memory:name", "main"),
        ("file:///data/repo@main", "file:///data/repo", "main"),
        ("repo@", "repo@", None),
        ("missing/repo@main", "missing/repo", "main"),
        ("missing@x/repo", "missing@x/repo", None),
        ("@main", "@main", None),
    ],
)
def test_split(text, location, ref, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_ref(text) == (location, ref)


def test_what_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data@2024").mkdir()
    assert split_ref("data@2024") == ("data@2024", None)
    assert split_ref("data@2024@v1") == ("data@2024", "v1")
    assert split_ref("data@2024@feature/x") == ("data@2024", "feature/x")
    assert split_ref(f"{tmp_path}/data@2024@feature@x") == (f"{tmp_path}/data@2024", "feature@x")
    (tmp_path / "data").mkdir()
    assert split_ref("data@2024") == ("data@2024", None)
    assert split_ref("data@2023") == ("data", "2023")


def test_what_is_a_url():
    assert [text for text in ("s3://b", "memory:", "memory:x", "./a", "a", "/x:y", "C:\\x") if is_url(text)] == [
        "s3://b",
        "memory:",
        "memory:x",
    ]
