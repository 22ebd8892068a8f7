"""The settings in force, as frozen values with their defaults and units.

`mender_gateway.config.load.load` makes a `Config` from the JSON file and the environment; no other
room knows a default. Durations are seconds, sizes are bytes, hosts are lower case.
"""

from dataclasses import dataclass, field

type_of_value = str | int | float | list[str] | list[int] | list[float]
"""A value of the Mender inventory: string, number or list of those."""


@dataclass(frozen=True, slots=True)
class Address:
    """A listening address in Go's syntax (package net, Listen); an empty host is all interfaces."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An http or https server as a URL names it, without path; `host` has no brackets."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and, unless it is the scheme's default, port: the value of a Host field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Http:
    enabled: bool = False
    listen: Address = Address("", 80)


@dataclass(frozen=True, slots=True)
class Https:
    enabled: bool = False
    listen: Address = Address("", 443)
    server_certificate: str | None = None
    server_key: str | None = None
    minimum_tls_version: str = "1.2"


@dataclass(frozen=True, slots=True)
class UpstreamServer:
    url: Endpoint
    ca_certificate: str | None = None
    insecure_skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class ArtifactsCache:
    enabled: bool = False
    path: str = "/var/cache/mender-gateway"
    signature_secret: bytes | None = field(default=None, repr=False)
    """HMAC-SHA256 key, decoded; None: the generated one in the state directory."""
    link_expire: float = 24 * 3600.0
    max_size: int | None = None
    """Bytes that the cache may hold; None: as many as the disk has room for."""
    min_free_space: int | None = None
    """Bytes that stay free; None: the larger of 64 MiB and 2 % of the file system."""
    scrub_interval: float = 7 * 86_400.0
    """Between two readings of the same stored object; 0: none."""
    uplink_rate: int | None = None
    """Bytes per second for all downloads from storage together; None: no limit."""


@dataclass(frozen=True, slots=True)
class ArtifactsProxy:
    enabled: bool = False
    gateway_url: Endpoint | None = None
    domain_whitelist: tuple[str, ...] = ()
    verify_keys: tuple[str, ...] = ()
    """PEM files of public keys; artifacts must be signed with one of them."""
    cache: ArtifactsCache = ArtifactsCache()


@dataclass(frozen=True, slots=True)
class Mtls:
    enabled: bool = False
    ca_certificate: str | None = None
    blacklist_path: str | None = None
    mender_username: str | None = None
    mender_password: str | None = field(default=None, repr=False)
    mender_password_file: str | None = None
    mender_token: str | None = field(default=None, repr=False)
    """A personal access token; goes before user and password."""
    mender_token_file: str | None = None
    enable_cache: bool = True
    insecure_skip_client_expire_after: bool = False
    crl_path: str | None = None
    crl_required: bool = False
    require_matching_key: bool = False
    identity_from_certificate: tuple[tuple[str, str], ...] = ()
    """Identity attribute and the field of the certificate (CN, serial, SAN) that must agree."""

    @property
    def has_credentials(self) -> bool:
        password = self.mender_password or self.mender_password_file
        return bool(
            self.mender_token or self.mender_token_file or (self.mender_username and password)
        )


@dataclass(frozen=True, slots=True)
class InventoryAttribute:
    name: str
    value: type_of_value


@dataclass(frozen=True, slots=True)
class DeviceSystem:
    enabled: bool = False
    system_id: str | None = None
    default_inventory: tuple[InventoryAttribute, ...] = ()


@dataclass(frozen=True, slots=True)
class Metrics:
    enabled: bool = False
    listen: Address = Address("", 9102)


@dataclass(frozen=True, slots=True)
class Proxies:
    """HTTP_PROXY, HTTPS_PROXY and NO_PROXY as found in the environment, None where absent."""

    http: str | None = field(default=None, repr=False)
    https: str | None = field(default=None, repr=False)
    no_proxy: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines in seconds and bounds; the JSON section `Limits` (ours), durations in Go syntax."""

    handshake: float = 15.0
    """TLS handshake of a device."""
    first_request: float = 30.0
    """From the end of the handshake (or accept, on the plain listener) to the first byte."""
    request_head: float = 15.0
    """From the first byte of a request to the end of its head."""
    body_progress: float = 60.0
    """Longest silence inside a request or API answer body."""
    connect: float = 15.0
    """TCP connect and TLS handshake towards upstream, storage or outbound proxy."""
    api_first_byte: float = 75.0
    download_first_byte: float = 900.0
    """First byte of a download, and the longest silence inside one."""
    artifact_write_stall: float = 600.0
    """Longest time that a device takes no byte of an artifact."""
    write_stall: float = 60.0
    keep_alive: float = 120.0
    """Idle time between the requests of a device's connection."""
    upstream_idle: float = 30.0
    """Idle time of a pooled upstream connection."""
    shutdown_grace: float = 30.0
    """From SIGTERM to the end of what is still being answered."""
    connections: int = 10_000
    connections_per_address: int = 5_000
    """Of one IPv4 address or IPv6 network; many devices may share one."""
    upstream_connections: int = 1_000
    """Connections towards one upstream or storage host at a time."""
    upstream_connections_per_address: int = 500
    """Requests of one address that may hold a connection upstream while they are streamed."""
    head_bytes: int = 64 * 1024
    json_bytes: int = 4 * 1024 * 1024
    """Largest JSON body that is rewritten."""


@dataclass(frozen=True, slots=True)
class Config:
    upstream: UpstreamServer
    http: Http = Http()
    https: Https = Https()
    artifacts_proxy: ArtifactsProxy = ArtifactsProxy()
    mtls: Mtls = Mtls()
    device_system: DeviceSystem = DeviceSystem()
    metrics: Metrics = Metrics()
    limits: Limits = Limits()
    proxies: Proxies = Proxies()
    state_dir: str = "/var/lib/mender-gateway"
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks (CIDR) whose X-Forwarded-* and Forwarded fields are kept (ours)."""
    debug_log: bool = False
