"""Places on servers that speak S3, for both libraries."""

from dataclasses import dataclass
from typing import Any

from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.store import S3Storage
from tests.support.s3_server import BUCKET


@dataclass(frozen=True)
class Place:
    """A prefix of a bucket on one of the servers, with keys that only some of them check."""

    endpoint_url: str
    prefix: str
    access_key_id: str = "any"
    secret_access_key: str = "any"

    def storage(self) -> S3Storage:
        """Opens the place for the engine."""
        credentials = S3Credentials(self.access_key_id, self.secret_access_key)
        return S3Storage(BUCKET, self.prefix, S3Options(endpoint_url=self.endpoint_url, credentials=credentials))

    @property
    def url(self) -> str:
        """The place as a user writes it; the keys are in the environment."""
        return f"s3://{BUCKET}/{self.prefix}?endpoint_url={self.endpoint_url}&region=us-east-1"

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of `s3_storage`, the same for both libraries."""
        return {
            "bucket": BUCKET,
            "prefix": self.prefix,
            "region": "us-east-1",
            "endpoint_url": self.endpoint_url,
            "allow_http": True,
            "force_path_style": True,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
        }


def make_bucket(endpoint_url: str) -> None:
    """Makes the bucket on a server that checks no signatures."""
    storage = Place(endpoint_url, "").storage()
    storage.access.clients.connection().client.create_bucket(Bucket=BUCKET)
    storage.close()
