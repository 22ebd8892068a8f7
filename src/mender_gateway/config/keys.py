"""The table of every setting: one row per key, and the only place that knows their names.

Loading, `check-config`, the hints for unknown keys and the test that holds the documentation
complete all derive from `KEYS`. Defaults are those of the dataclasses in `settings`. Keys of the
file match without case, as Go's encoding/json matches them.
"""

import dataclasses
from dataclasses import dataclass

from mender_gateway.config import kinds
from mender_gateway.config.kinds import Kind
from mender_gateway.config.settings import Limits


@dataclass(frozen=True, slots=True)
class Key:
    path: str
    """The key's place in the file, its sections separated by dots."""
    target: str
    """The same for the fields of `Config`."""
    kind: Kind
    meaning: str
    environment: tuple[str, ...] = ()
    """Variables that set it, the first one that is not empty counts; later ones are old names."""
    also: tuple[str, ...] = ()
    """Other places in the file, used when the key itself is absent."""
    secret: bool = False
    in_file: bool = True


_ARTIFACTS = "Features.ArtifactsProxy"
_CACHE = f"{_ARTIFACTS}.ArtifactsCache"
_SYSTEM = "Features.DeviceSystem"

_SERVER_KEYS = (
    Key("HTTP.Enabled", "http.enabled", kinds.BOOLEAN, "plain listener", ("HTTP_ENABLED",)),
    Key("HTTP.Listen", "http.listen", kinds.ADDRESS, "its address", ("HTTP_LISTEN",)),
    Key("HTTPS.Enabled", "https.enabled", kinds.BOOLEAN, "TLS listener", ("HTTPS_ENABLED",)),
    Key(
        "HTTPS.Listen",
        "https.listen",
        kinds.ADDRESS,
        "its address",
        ("HTTPS_LISTEN", "MTLS_LISTEN"),
    ),
    Key(
        "HTTPS.ServerCertificate",
        "https.server_certificate",
        kinds.PATH,
        "PEM file: the server's certificate and its intermediates",
        ("HTTPS_SERVER_CERTIFICATE", "MTLS_SERVER_CERT"),
    ),
    Key(
        "HTTPS.ServerKey",
        "https.server_key",
        kinds.PATH,
        "PEM file: the private key of the certificate, without passphrase",
        ("HTTPS_SERVER_KEY", "MTLS_SERVER_KEY"),
    ),
    Key(
        "HTTPS.MinimumTLSVersion",
        "https.minimum_tls_version",
        kinds.TLS_VERSION,
        "oldest TLS version that devices may use",
        ("HTTPS_MINIMUM_TLS_VERSION", "HTTPS_MINMUM_TLS_VERSION", "MTLS_HTTPS_TLS_VERSION_MIN"),
    ),
    Key(
        "UpstreamServer.URL",
        "upstream.url",
        kinds.ENDPOINT,
        "the Mender Server, or the next gateway towards it",
        ("UPSTREAM_SERVER_URL", "UPSTREAM_SERVER", "MTLS_MENDER_BACKEND"),
    ),
    Key(
        "UpstreamServer.CACertificate",
        "upstream.ca_certificate",
        kinds.PATH,
        "PEM bundle that the upstream's certificate must chain to, instead of the system's",
        ("UPSTREAM_SERVER_CA_CERTIFICATE",),
    ),
    Key(
        "UpstreamServer.InsecureSkipVerify",
        "upstream.insecure_skip_verify",
        kinds.BOOLEAN,
        "do not verify the upstream's certificate (dangerous)",
        ("UPSTREAM_SERVER_INSECURE_SKIP_VERIFY",),
    ),
)

_FEATURE_KEYS = (
    Key(
        f"{_ARTIFACTS}.Enabled",
        "artifacts_proxy.enabled",
        kinds.BOOLEAN,
        "rewrite artifact links so that devices download through the gateway",
        ("ARTIFACTS_PROXY_ENABLED",),
    ),
    Key(
        f"{_ARTIFACTS}.GatewayURL",
        "artifacts_proxy.gateway_url",
        kinds.ENDPOINT,
        "the gateway's own address as devices reach it",
        ("ARTIFACTS_PROXY_GATEWAY_URL",),
    ),
    Key(
        f"{_ARTIFACTS}.DomainWhitelist",
        "artifacts_proxy.domain_whitelist",
        kinds.HOSTS,
        "storage hosts that artifacts may come from, each with everything below it",
        ("ARTIFACTS_PROXY_DOMAIN_WHITELIST",),
    ),
    Key(
        f"{_ARTIFACTS}.ArtifactVerifyKeys",
        "artifacts_proxy.verify_keys",
        kinds.FILES,
        "PEM files of public keys: artifacts that none of them signed are refused",
        ("ARTIFACTS_PROXY_VERIFY_KEYS",),
    ),
    Key(
        f"{_CACHE}.Enabled",
        "artifacts_proxy.cache.enabled",
        kinds.BOOLEAN,
        "keep artifacts on disk, so that each crosses the uplink once",
        ("ARTIFACTS_PROXY_CACHE_ENABLED",),
        also=(_CACHE,),
    ),
    Key(
        f"{_CACHE}.Path",
        "artifacts_proxy.cache.path",
        kinds.PATH,
        "directory of the cache, best on a volume of its own",
        ("ARTIFACTS_PROXY_CACHE_PATH",),
    ),
    Key(
        f"{_CACHE}.SignatureSecret",
        "artifacts_proxy.cache.signature_secret",
        kinds.SECRET,
        "base64 key that signs local links; one and the same for all replicas",
        ("ARTIFACTS_PROXY_CACHE_SECRET",),
        secret=True,
    ),
    Key(
        f"{_CACHE}.LinkExpireDuration",
        "artifacts_proxy.cache.link_expire",
        kinds.DURATION,
        "how long a local link is valid",
        ("ARTIFACTS_PROXY_CACHE_LINK_EXPIRE_DURATION",),
    ),
    Key(
        f"{_CACHE}.MaxSize",
        "artifacts_proxy.cache.max_size",
        kinds.SIZE,
        "what the cache may hold at most",
        ("ARTIFACTS_PROXY_CACHE_MAX_SIZE",),
    ),
    Key(
        f"{_CACHE}.MinFreeSpace",
        "artifacts_proxy.cache.min_free_space",
        kinds.SIZE_OR_ZERO,
        "what stays free on the cache's file system",
        ("ARTIFACTS_PROXY_CACHE_MIN_FREE_SPACE",),
    ),
    Key(
        f"{_CACHE}.ScrubInterval",
        "artifacts_proxy.cache.scrub_interval",
        kinds.PERIOD_OR_ZERO,
        "how often every stored artifact is read again and checked; 0: never",
        ("ARTIFACTS_PROXY_CACHE_SCRUB_INTERVAL",),
    ),
    Key(
        f"{_CACHE}.UplinkRateLimit",
        "artifacts_proxy.cache.uplink_rate",
        kinds.RATE,
        "what all downloads from storage together may take of the uplink",
        ("ARTIFACTS_PROXY_CACHE_UPLINK_RATE_LIMIT",),
    ),
    Key(
        "Features.mTLS.Enabled",
        "mtls.enabled",
        kinds.BOOLEAN,
        "require client certificates and authorise their devices",
        ("MTLS_ENABLED",),
    ),
    Key(
        "Features.mTLS.CACertificate",
        "mtls.ca_certificate",
        kinds.PATH,
        "PEM file: the root certificates that devices' certificates must chain to",
        ("MTLS_CA_CERTIFICATE", "MTLS_TENANT_CA_PEM"),
    ),
    Key(
        "Features.mTLS.BlacklistPath",
        "mtls.blacklist_path",
        kinds.PATH,
        "file of hexadecimal serial numbers that are refused, one a line",
        ("MTLS_BLACKLIST_PATH",),
    ),
    Key(
        "Features.mTLS.MenderUsername",
        "mtls.mender_username",
        kinds.TEXT,
        "user of the Mender Server who authorises devices",
        ("MTLS_MENDER_USERNAME", "MTLS_MENDER_USER"),
    ),
    Key(
        "Features.mTLS.MenderPassword",
        "mtls.mender_password",
        kinds.TEXT,
        "that user's password",
        ("MTLS_MENDER_PASSWORD", "MTLS_MENDER_PASS"),
        secret=True,
    ),
    Key(
        "Features.mTLS.MenderPasswordFile",
        "mtls.mender_password_file",
        kinds.PATH,
        "file that holds the password instead",
        ("MTLS_MENDER_PASSWORD_FILE",),
    ),
    Key(
        "Features.mTLS.MenderToken",
        "mtls.mender_token",
        kinds.TEXT,
        "personal access token of that user, instead of name and password",
        ("MTLS_MENDER_TOKEN",),
        secret=True,
    ),
    Key(
        "Features.mTLS.MenderTokenFile",
        "mtls.mender_token_file",
        kinds.PATH,
        "file that holds the token instead",
        ("MTLS_MENDER_TOKEN_FILE",),
    ),
    Key(
        "Features.mTLS.EnableCache",
        "mtls.enable_cache",
        kinds.BOOLEAN,
        "remember which keys and identities are authorised",
        ("MTLS_ENABLE_CACHE",),
    ),
    Key(
        "Features.mTLS.InsecureSkipClientExpireAfter",
        "mtls.insecure_skip_client_expire_after",
        kinds.BOOLEAN,
        "accept device certificates after their end date (dangerous)",
        ("MTLS_INSECURE_SKIP_CLIENT_EXPIRE_AFTER",),
    ),
    Key(
        "Features.mTLS.CRLPath",
        "mtls.crl_path",
        kinds.PATH,
        "certificate revocation lists, PEM or DER: a file, or a directory of files",
        ("MTLS_CRL_PATH",),
    ),
    Key(
        "Features.mTLS.CRLRequired",
        "mtls.crl_required",
        kinds.BOOLEAN,
        "refuse certificates whose CA has no list that is up to date",
        ("MTLS_CRL_REQUIRED",),
    ),
    Key(
        "Features.mTLS.RequireMatchingKey",
        "mtls.require_matching_key",
        kinds.BOOLEAN,
        "insist that a device authenticates with the key of its certificate",
        ("MTLS_REQUIRE_MATCHING_KEY",),
    ),
    Key(
        "Features.mTLS.IdentityFromCertificate",
        "mtls.identity_from_certificate",
        kinds.IDENTITY,
        "identity attributes that must agree with a field of the certificate: CN, serial or SAN",
        ("MTLS_IDENTITY_FROM_CERTIFICATE",),
    ),
    Key(
        f"{_SYSTEM}.Enabled",
        "device_system.enabled",
        kinds.BOOLEAN,
        "add the system's attributes to the inventory of every device",
        ("DEVICE_SYSTEM_ENABLED",),
    ),
    Key(
        f"{_SYSTEM}.SystemID",
        "device_system.system_id",
        kinds.TEXT,
        "the value of the inventory attribute mender_gateway_system_id",
        ("DEVICE_SYSTEM_ID",),
    ),
    Key(
        f"{_SYSTEM}.DefaultInventory",
        "device_system.default_inventory",
        kinds.INVENTORY,
        "attributes that are added where a device does not send them",
        also=("DefaultInventory",),
    ),
)

_OTHER_KEYS = (
    Key(
        "Metrics.Enabled", "metrics.enabled", kinds.BOOLEAN, "metrics server", ("METRICS_ENABLED",)
    ),
    Key("Metrics.Listen", "metrics.listen", kinds.ADDRESS, "its address", ("METRICS_LISTEN",)),
    Key(
        "StateDir",
        "state_dir",
        kinds.PATH,
        "directory of what the gateway must keep, the generated secret",
        ("STATE_DIR",),
    ),
    Key(
        "TrustedProxies",
        "trusted_proxies",
        kinds.NETWORKS,
        "addresses or networks whose X-Forwarded-For, -Proto and Forwarded fields are believed",
        ("TRUSTED_PROXIES",),
    ),
    Key(
        "DebugLog",
        "debug_log",
        kinds.BOOLEAN,
        "the same as --log-level debug",
        ("MTLS_DEBUG_LOG",),
    ),
    Key(
        "HTTP_PROXY",
        "proxies.http",
        kinds.PROXY,
        "outbound proxy towards http servers",
        ("HTTP_PROXY", "http_proxy"),
        in_file=False,
    ),
    Key(
        "HTTPS_PROXY",
        "proxies.https",
        kinds.PROXY,
        "outbound proxy towards https servers",
        ("HTTPS_PROXY", "https_proxy"),
        in_file=False,
    ),
    Key(
        "NO_PROXY",
        "proxies.no_proxy",
        kinds.TEXT,
        "hosts that are reached without proxy",
        ("NO_PROXY", "no_proxy"),
        in_file=False,
    ),
)

_LIMIT_MEANINGS = {
    "handshake": "TLS handshake of a device",
    "first_request": "from the handshake, or accept, to the first byte of a request",
    "request_head": "from the first byte of a request to the end of its head",
    "body_progress": "longest silence inside the body of a request or API answer",
    "connect": "TCP connect and TLS handshake towards upstream, storage or outbound proxy",
    "api_first_byte": "until the upstream begins to answer an API request",
    "download_first_byte": "until a download begins, and the longest silence inside one",
    "artifact_write_stall": "longest time that a device takes no byte of an artifact",
    "write_stall": "longest time that a device takes no byte of any other answer",
    "keep_alive": "idle time between the requests of a device's connection",
    "upstream_idle": "idle time of a pooled upstream connection; 0: none is pooled",
    "shutdown_grace": "from SIGTERM to the end of what is still being answered",
    "connections": "connections of devices at a time",
    "connections_per_address": "of these, connections of one IPv4 address or IPv6 network (/64)",
    "upstream_connections": "connections towards one upstream or storage host at a time",
    "upstream_connections_per_address": "of these, held by streamed requests of one address",
    "head_bytes": "request line and header fields together",
    "json_bytes": "largest JSON body that is rewritten",
}
_ZERO_ALLOWED = frozenset({"upstream_idle", "shutdown_grace"})
_ACRONYMS = frozenset({"api", "json", "tls"})


def _limit_key(name: str, of_seconds: bool) -> Key:
    words = [word.upper() if word in _ACRONYMS else word.capitalize() for word in name.split("_")]
    if of_seconds:
        kind = kinds.DURATION_OR_ZERO if name in _ZERO_ALLOWED else kinds.DURATION
    else:
        kind = kinds.SIZE if name.endswith("_bytes") else kinds.COUNT
    meaning = _LIMIT_MEANINGS.get(name, name.replace("_", " "))
    return Key(f"Limits.{''.join(words)}", f"limits.{name}", kind, meaning)


_LIMIT_KEYS = tuple(
    _limit_key(field.name, isinstance(field.default, float)) for field in dataclasses.fields(Limits)
)

KEYS = (*_SERVER_KEYS, *_FEATURE_KEYS, *_OTHER_KEYS, *_LIMIT_KEYS)
"""Every setting, in the order in which people read them."""
