"""Locations of studies: a folder, or a prefix of a bucket (`s3://bucket/prefix`, `gs://bucket/prefix`)."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from ablate.errors import BadInput

Scheme = Literal["s3", "gs"]
OPTIONS: dict[Scheme, tuple[str, ...]] = {
    "s3": ("endpoint_override", "scheme", "region"),
    "gs": ("endpoint_override", "scheme"),
}
"""Parameters that a URL may have, named as in pyarrow's `FileSystem.from_uri`. Keys come from the environment."""

HELP = "a folder, or s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; default: results"
"""Help of `--results`."""

_HINT = "give a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
_HAS_KEY = "contains a key, which would be written to logs"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]")


@dataclass(frozen=True)
class Url:
    """A prefix of a bucket. `/` extends it, like a path. It holds no secret, so it is sent to workers as it is.

    `options` are the parameters in the URL. `endpoint` (scheme://host:port) and `region` come from the URL or from the
    environment of the process that parsed it, and are "" where neither gives them.
    """

    scheme: Scheme
    bucket: str
    key: str
    options: tuple[tuple[str, str], ...] = ()
    endpoint: str = ""
    region: str = ""

    def __truediv__(self, name: str) -> Url:
        return replace(self, key="/".join([*self.key.split("/"), *name.split("/")]).strip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}" + (f"?{urlencode(self.options)}" if self.options else "")

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    def absolute(self) -> Url:
        """The URL itself: a URL is never relative."""
        return self

    def whole(self) -> str:
        """The URL with its endpoint and region, for a process that does not share this environment."""
        protocol, _, host = self.endpoint.rpartition("://")
        known = {"endpoint_override": host, "scheme": protocol, "region": self.region}
        query = urlencode({key: value for key, value in known.items() if value})
        return f"{self.scheme}://{self.bucket}/{self.key}" + (f"?{query}" if query else "")


Place = Path | Url


def parse(text: str) -> Place:
    """Read a folder or a URL. Raises BadInput for a URL that is malformed, has another scheme, or contains a key."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|(s3|gs):", text):
        return Path(text)
    split = urlsplit(text)
    if "@" in split.netloc:
        raise BadInput(f"{split.scheme}://...@{split.hostname}", "", "", _HAS_KEY, "put keys into the environment")
    shown = text.partition("?")[0]
    if split.scheme not in OPTIONS:
        raise BadInput(shown, "", "", f"results cannot be kept under {split.scheme}://", _HINT)
    scheme = cast(Scheme, split.scheme)
    if not _BUCKET.fullmatch(split.netloc):
        raise BadInput(shown, "bucket", split.netloc, "not a name of a bucket", _HINT)
    key = split.path.strip("/")
    if key and (any(part in ("", ".", "..") for part in key.split("/")) or not key.isprintable()):
        raise BadInput(shown, "", "", "a part of the prefix is empty, `.` or `..`", _HINT)
    options = parse_qsl(split.query, keep_blank_values=True)
    for name, _ in options:  # a value is not shown: it may be a key
        if name not in OPTIONS[scheme]:
            hint = f"one of {', '.join(OPTIONS[scheme])}; keys come from the environment"
            raise BadInput(shown, name, "", f"not a parameter of {scheme}:// URLs", hint)
    given = dict(options)
    return Url(
        scheme,
        bucket=split.netloc,
        key=key,
        options=tuple(options),
        endpoint=_endpoint(given, scheme=scheme, shown=shown),
        region=given["region"] if "region" in given else _region(scheme),
    )


def cache(url: Url) -> Path:
    """The folder on this machine for copies of the files under `url`, and for files that only this machine needs.
    Raises BadInput for a user without a home."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # HOME is not set, and passwd does not know the user
        hint = "set HOME or XDG_CACHE_HOME to a folder that can be written"
        raise BadInput(
            str(url), "", "", "copies of its files need a folder here, and this user has no home", hint
        ) from None
    server = f"-{hashlib.sha256(url.endpoint.encode()).hexdigest()[:8]}" if url.endpoint else ""
    return root.joinpath("ablate", "results", f"{url.scheme}-{url.bucket}{server}", *url.key.split("/"))


def _endpoint(given: dict[str, str], *, scheme: Scheme, shown: str) -> str:
    if "endpoint_override" in given:
        endpoint = given["endpoint_override"]
    elif scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    else:
        endpoint = os.environ.get("STORAGE_EMULATOR_HOST") or ""
    if not endpoint:
        return ""
    protocol, separator, host = endpoint.rpartition("://")
    protocol = given.get("scheme", protocol if separator else "https")
    host = host.strip("/")
    if "@" in host:
        hint = "put keys into their own variables, such as AWS_SECRET_ACCESS_KEY"
        raise BadInput(shown, "endpoint", f"...@{host.rpartition('@')[2].partition('?')[0]}", _HAS_KEY, hint)
    if protocol not in ("http", "https") or not re.fullmatch(r"[\w.:\[\]-]+", host):
        raise BadInput(shown, "endpoint", host, "not HOST:PORT with http or https", "write it like http://HOST:PORT")
    return f"{protocol}://{host}"


def _region(scheme: Scheme) -> str:
    return (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "") if scheme == "s3" else ""
