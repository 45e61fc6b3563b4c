"""An object of S3 with conditional writes, through botocore (the extra `s3`), since pyarrow sends no conditions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ablate.records.lease import Seen
from ablate.records.locations import Url

_REFUSED = (404, 409, 412)
"""HTTP status of a write whose condition does not hold: the object is gone, is being written, or is another."""


@dataclass(frozen=True)
class S3Register:
    """Implements `lease.Register`. A version is an ETag."""

    client: Any
    bucket: str
    key: str

    def read(self) -> Seen | None:
        with _as_os_error():
            try:
                got = self.client.get_object(Bucket=self.bucket, Key=self.key)
            except self.client.exceptions.NoSuchKey:
                return None
            now = parsedate_to_datetime(got["ResponseMetadata"]["HTTPHeaders"]["date"])
            return Seen(got["Body"].read(), got["ETag"], (now - got["LastModified"]).total_seconds())

    def write(self, content: bytes, *, over: str | None) -> str | None:
        condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
        with _as_os_error():
            try:
                return self.client.put_object(Bucket=self.bucket, Key=self.key, Body=content, **condition)["ETag"]
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in _REFUSED:
                    return None
                raise

    def drop(self) -> None:
        with _as_os_error():
            self.client.delete_object(Bucket=self.bucket, Key=self.key)


def connect(url: Url, *, region: str) -> Any:
    """A client for the URL's server, with the keys that botocore finds: in the environment, a profile or a role."""
    config = Config(
        connect_timeout=5,
        read_timeout=20,
        retries={"mode": "standard", "total_max_attempts": 5},
        s3={"addressing_style": "path" if url.endpoint else "auto"},  # as pyarrow does
        request_checksum_calculation="when_required",  # other servers than Amazon's may not know the new checksums
        response_checksum_validation="when_required",
    )
    with _as_os_error():
        session = botocore.session.get_session()
        return session.create_client("s3", region_name=region, endpoint_url=url.endpoint or None, config=config)


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from error
