"""What boto3 finds out, by its public API."""

import ast
from pathlib import Path

import pytest

import icefs
from icefs.errors import UnsupportedError
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.session import find_target, open_client

KEYS = S3Credentials("AKIAEXAMPLE", "secret")
# The modules whose names botocore documents, and the one that has the error for answers that cannot be read.
PUBLIC = {
    "boto3.session",
    "botocore",
    "botocore.config",
    "botocore.credentials",
    "botocore.exceptions",
    "botocore.parsers",
    "botocore.session",
}
S3 = Path(icefs.__file__).parent / "storage/s3"


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch, tmp_path):
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path / "AWS_CONFIG_FILE"


def target(bucket, **options):
    opened = open_client(S3Options(credentials=KEYS, **options))
    return find_target(opened.client, bucket, is_signed=True)


@pytest.mark.parametrize(
    ("bucket", "region", "url", "signed_for"),
    [
        ("bucket", None, "https://bucket.s3.amazonaws.com/", "us-east-1"),
        ("bucket", "eu-central-1", "https://bucket.s3.eu-central-1.amazonaws.com/", "eu-central-1"),
        ("dotted.bucket", "eu-central-1", "https://s3.eu-central-1.amazonaws.com/dotted.bucket/", "eu-central-1"),
        ("bucket", "cn-north-1", "https://bucket.s3.cn-north-1.amazonaws.com.cn/", "cn-north-1"),
        (
            "arn:aws:s3:us-west-2:123456789012:accesspoint/ours",
            "eu-central-1",
            "https://ours-123456789012.s3-accesspoint.us-west-2.amazonaws.com/",
            "us-west-2",
        ),
    ],
)
def test_a_bucket_of_aws_is_where_its_region_says(bucket, region, url, signed_for):
    found = target(bucket, region=region)
    assert (found.base_url, found.region, found.service) == (url, signed_for, "s3")


def test_the_configuration_file_decides_about_addresses(no_configuration):
    no_configuration.write_text("[default]\nregion = eu-north-1\ns3 =\n  use_dualstack_endpoint = true\n")
    found = target("bucket")
    assert found.base_url == "https://bucket.s3.dualstack.eu-north-1.amazonaws.com/"
    assert found.region == "eu-north-1"


@pytest.mark.parametrize(
    "bucket", ["bucket--use1-az4--x-s3", "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap"]
)
def test_what_is_signed_in_another_way_is_refused_without_a_request(bucket):
    with pytest.raises(UnsupportedError, match="signed in another way"):
        target(bucket)


def test_the_client_sends_requests_again_once_the_target_is_known(no_configuration):
    client = open_client(S3Options(credentials=KEYS, endpoint_url="http://127.0.0.1:9", connect_timeout_s=0.2)).client
    find_target(client, "bucket", is_signed=True)
    with pytest.raises(Exception, match="Could not connect"):
        client.head_object(Bucket="bucket", Key="k")


@pytest.mark.parametrize("path", sorted(S3.glob("*.py")), ids=lambda path: path.stem)
def test_no_private_part_of_botocore_is_used(path):
    tree = ast.parse(path.read_text())
    boto = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            is_module = node.module in ("boto3", "botocore")
            names = [f"{node.module}.{alias.name}" if is_module else node.module for alias in node.names]
        else:
            continue
        boto.update(name for name in names if name.partition(".")[0] in ("boto3", "botocore"))
        assert not any(alias.name.startswith("_") for alias in node.names if names[0] in boto)
    assert boto <= PUBLIC
    # Private names are used on `self` and `cls` alone: what boto3 returns has other names.
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            assert isinstance(node.value, ast.Name), ast.unparse(node)
            assert node.value.id in ("self", "cls"), ast.unparse(node)


def test_the_names_of_botocore_that_are_used_are_few():
    used = {
        alias.name
        for path in S3.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "botocore.parsers"
        for alias in node.names
    }
    assert used == {"ResponseParserError"}
