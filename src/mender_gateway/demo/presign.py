"""Presigned links in the manner of S3: AWS Signature Version 4 in the query (pure functions).

The signature covers method, path, query and the exact Host; it is checked by signing what was
received anew. Only the header `host` is signed, and the payload is not.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, unquote

ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class SigningKey:
    access: str = "mender"
    secret: str = "demo-secret-for-loopback-only"
    region: str = "us-east-1"

    def scope(self, day: str) -> str:
        return f"{day}/{self.region}/s3/aws4_request"

    def derived(self, day: str) -> bytes:
        key = f"AWS4{self.secret}".encode()
        for part in (day, self.region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), hashlib.sha256)
        return key


class BadSignature(Exception):
    """The link was not signed by this key for this request."""


class Expired(Exception):
    """The link was valid once."""


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def _signature(
    key: SigningKey, path: str, query: Sequence[tuple[str, str]], host: str, when: str
) -> str:
    """Over a GET of `path` (decoded) with `query` (decoded, without the signature)."""
    pairs = sorted((_encoded(name), _encoded(value)) for name, value in query)
    request = "\n".join(
        (
            "GET",
            quote(path, safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            f"host:{host}\n",
            "host",
            "UNSIGNED-PAYLOAD",
        )
    )
    day = when[:8]
    hashed = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join((ALGORITHM, when, key.scope(day), hashed))
    return hmac.new(key.derived(day), text.encode(), hashlib.sha256).hexdigest()


def presigned(
    key: SigningKey, base: str, path: str, now: float, lifetime: int, filename: str
) -> str:
    """A GET link to `path` (decoded) at `base` (scheme and authority), valid `lifetime` s."""
    when = datetime.fromtimestamp(int(now), UTC).strftime("%Y%m%dT%H%M%SZ")
    query = [
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", f"{key.access}/{key.scope(when[:8])}"),
        ("X-Amz-Date", when),
        ("X-Amz-Expires", str(lifetime)),
        ("X-Amz-SignedHeaders", "host"),
        ("response-content-disposition", f'attachment; filename="{filename}"'),
        ("response-content-type", "application/vnd.mender-artifact"),
        ("x-id", "GetObject"),
    ]
    signature = _signature(key, path, query, base.partition("://")[2], when)
    text = "&".join(f"{name}={_encoded(value)}" for name, value in query)
    return f"{base}{quote(path, safe='/-_.~')}?{text}&X-Amz-Signature={signature}"


def check(key: SigningKey, target: str, host: str, now: float) -> dict[str, str]:
    """The link's decoded query when it is this key's, for this Host, and alive.

    `BadSignature` or `Expired` otherwise.
    """
    path, _, text = target.partition("?")
    try:
        query = parse_qsl(text, keep_blank_values=True, strict_parsing=True)
        values = dict(query)
        when, lifetime = values["X-Amz-Date"], int(values["X-Amz-Expires"])
        signed = datetime.strptime(when, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        given = values["X-Amz-Signature"]
    except (KeyError, ValueError):
        raise BadSignature from None
    unsigned = [pair for pair in query if pair[0] != "X-Amz-Signature"]
    if not hmac.compare_digest(_signature(key, unquote(path), unsigned, host, when), given):
        raise BadSignature
    if now >= signed + lifetime:
        raise Expired
    return values
