"""What one key alone cannot tell: settings that need or contradict each other.

Pure functions of a `Config`. `faults` are errors that keep the gateway from starting, `cautions`
are warnings; each is one line that begins with the key path and says what to do.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from mender_gateway.config.settings import Address, Config, Endpoint

_SHORTEST_SECRET = 16


def faults(config: Config) -> list[str]:
    """Every reason why the gateway cannot run with these settings."""
    return [
        *_listeners(config),
        *_tls(config),
        *_artifacts(config),
        *_mtls(config),
        *_system(config),
    ]


def _listeners(config: Config) -> Iterator[str]:
    if not config.http.enabled and not config.https.enabled:
        yield (
            "HTTP.Enabled: false, and HTTPS.Enabled too: no listener for devices; "
            "set one of them to true"
        )
    listeners = (
        ("HTTP.Listen", config.http.enabled, config.http.listen),
        ("HTTPS.Listen", config.https.enabled, config.https.listen),
        ("Metrics.Listen", config.metrics.enabled, config.metrics.listen),
    )
    taken: list[tuple[str, Address]] = []
    for path, enabled, address in listeners:
        if not enabled:
            continue
        for other, rival in taken:
            if overlap(address, rival):
                yield (
                    f'{path}: "{address}" takes the same port as {other} "{rival}"; '
                    "give each listener its own port"
                )
        taken.append((path, address))


def overlap(one: Address, other: Address) -> bool:
    """Whether two addresses cannot be listened on at the same time; port 0 never collides."""
    if one.port != other.port or one.port == 0:
        return False
    this, that = _ip(one.host), _ip(other.host)
    if this == that or _is_any(this, IPv6Address) or _is_any(that, IPv6Address):
        return True  # the IPv6 wildcard is dual stack
    if _is_any(this, IPv4Address):
        return not isinstance(that, IPv6Address)
    return _is_any(that, IPv4Address) and not isinstance(this, IPv6Address)


def _is_any(host: IPv4Address | IPv6Address | str, family: type[IPv4Address | IPv6Address]) -> bool:
    return isinstance(host, family) and host.is_unspecified


def _ip(host: str) -> IPv4Address | IPv6Address | str:
    if host == "":
        return IPv6Address("::")
    if host == "localhost":
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(host)
    except ValueError:
        return host


def _tls(config: Config) -> Iterator[str]:
    if not config.https.enabled:
        return
    for path, value, variable in (
        ("HTTPS.ServerCertificate", config.https.server_certificate, "HTTPS_SERVER_CERTIFICATE"),
        ("HTTPS.ServerKey", config.https.server_key, "HTTPS_SERVER_KEY"),
    ):
        if value is None:
            yield (
                f"{path}: missing while HTTPS.Enabled is true; write the path of a PEM file into "
                f"the file or into {variable}"
            )


def _artifacts(config: Config) -> Iterator[str]:
    proxy = config.artifacts_proxy
    if proxy.enabled and proxy.gateway_url is None:
        yield (
            "Features.ArtifactsProxy.GatewayURL: missing while Features.ArtifactsProxy.Enabled is "
            "true; write the URL under which devices reach this gateway, into the file or into "
            "ARTIFACTS_PROXY_GATEWAY_URL"
        )


def _mtls(config: Config) -> Iterator[str]:
    mtls, url = config.mtls, config.artifacts_proxy.gateway_url
    if not mtls.enabled:
        return
    if not config.https.enabled:
        yield (
            "Features.mTLS.Enabled: true while HTTPS.Enabled is false; set HTTPS.Enabled to true"
        )
    if mtls.ca_certificate is None:
        yield (
            "Features.mTLS.CACertificate: missing while Features.mTLS.Enabled is true; write the "
            "path of a PEM file into the file or into MTLS_CA_CERTIFICATE"
        )
    if config.artifacts_proxy.enabled and url is not None and url.scheme != "https":
        yield (
            f'Features.ArtifactsProxy.GatewayURL: "{url}" is plain http while '
            "Features.mTLS.Enabled is true; write an https:// URL"
        )


def _system(config: Config) -> Iterator[str]:
    if config.device_system.enabled and config.device_system.system_id is None:
        yield (
            "Features.DeviceSystem.SystemID: missing while Features.DeviceSystem.Enabled is true; "
            "write an identifier of your choice into the file or into DEVICE_SYSTEM_ID"
        )


def cautions(config: Config) -> list[str]:
    """Settings that work but are dangerous, or probably not what was meant."""
    return [*_dangers(config), *_oversights(config)]


def _dangers(config: Config) -> Iterator[str]:
    if config.upstream.insecure_skip_verify:
        yield (
            "UpstreamServer.InsecureSkipVerify: true: ANYBODY on the way can pose as the Mender "
            "Server; set UpstreamServer.CACertificate instead"
        )
    if config.https.enabled and config.https.minimum_tls_version in ("1.0", "1.1"):
        yield (
            f'HTTPS.MinimumTLSVersion: "{config.https.minimum_tls_version}" is BROKEN AND '
            'OUTDATED; use "1.2" unless devices cannot'
        )
    if config.mtls.enabled and config.mtls.insecure_skip_client_expire_after:
        yield (
            "Features.mTLS.InsecureSkipClientExpireAfter: true: EXPIRED device certificates are "
            "accepted; renew them and set it to false"
        )
    url = config.upstream.url
    if config.mtls.enabled and config.mtls.has_credentials and _in_the_clear(url):
        yield (
            f'UpstreamServer.URL: "{url}" is plain http: ANYBODY on the way can read the password '
            "or token of Features.mTLS, which manages devices; write an https:// URL"
        )
    secret = config.artifacts_proxy.cache.signature_secret
    if secret is not None and len(secret) < _SHORTEST_SECRET:
        yield (
            f"Features.ArtifactsProxy.ArtifactsCache.SignatureSecret: *** has only "
            f"{len(secret)} bytes and can be guessed; make one with: openssl rand -base64 32"
        )


def _in_the_clear(url: Endpoint) -> bool:
    host = _ip(url.host)
    return url.scheme == "http" and not (
        isinstance(host, IPv4Address | IPv6Address) and host.is_loopback
    )


def _oversights(config: Config) -> Iterator[str]:
    proxy, mtls = config.artifacts_proxy, config.mtls
    if proxy.verify_keys and not proxy.enabled:
        yield (
            "Features.ArtifactsProxy.ArtifactVerifyKeys: without effect, because "
            "Features.ArtifactsProxy.Enabled is false"
        )
    if proxy.cache.enabled and not proxy.enabled:
        yield (
            "Features.ArtifactsProxy.ArtifactsCache.Enabled: true without effect, because "
            "Features.ArtifactsProxy.Enabled is false"
        )
    if proxy.enabled and not proxy.domain_whitelist:
        yield (
            "Features.ArtifactsProxy.DomainWhitelist: empty, so no storage link will be "
            "rewritten; list the hosts of the artifact storage"
        )
    if mtls.enabled and not (mtls.require_matching_key or mtls.identity_from_certificate):
        yield (
            "Features.mTLS.IdentityFromCertificate: empty, and RequireMatchingKey is false: the "
            "holder of ANY device certificate may claim ANY identity and rotate its key; set one "
            "of them if your certificates allow it"
        )
    elif mtls.enabled and not mtls.identity_from_certificate:
        yield (
            "Features.mTLS.IdentityFromCertificate: empty: RequireMatchingKey ties a key to its "
            "certificate, but not to an identity, and the holder of a certificate may take over "
            "another device with it; name the attribute that certificates vouch for"
        )
    if mtls.enabled and not mtls.has_credentials:
        yield (
            "Features.mTLS.MenderUsername: missing, or MenderPassword is: devices are not "
            "authorised at the Mender Server automatically; set both, or MenderToken"
        )
