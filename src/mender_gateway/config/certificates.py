"""Whether the certificates, keys and CA bundles that the settings name can be used.

The daemon asks before it opens a port, with the standard library alone (except where artifacts must
be signed); what OpenSSL refuses is an error, what merely will trouble devices (an expired
certificate) a warning. `check-config` looks closer by means of `cryptography`. Messages begin with
the key path and name the file.
"""

import os
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mender_gateway.config import der
from mender_gateway.config.settings import Config
from mender_gateway.config.values import printable
from mender_gateway.config.verify_keys import read_key

_LARGEST_FILE = 16 * 1024 * 1024
_SOON = 14 * 24 * 3600.0
"""Seconds before the end of a server certificate from which on it is warned about."""


@dataclass(slots=True)
class Findings:
    """Lines for the log: errors keep the gateway from starting, warnings do not."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_certificates(config: Config, now: float) -> Findings:
    """Load every file that the enabled features name; `now` is in seconds since 1970.

    Blocks for reading the files. Raises nothing: all problems are in the findings.
    """
    found = Findings()
    if config.https.enabled:
        _check_server(config, now, found)
    if config.upstream.ca_certificate is not None:
        _check_bundle("UpstreamServer.CACertificate", config.upstream.ca_certificate, now, found)
    if config.mtls.enabled and config.mtls.ca_certificate is not None:
        _check_bundle("Features.mTLS.CACertificate", config.mtls.ca_certificate, now, found)
    if config.mtls.enabled and config.mtls.blacklist_path is not None:
        _read("Features.mTLS.BlacklistPath", config.mtls.blacklist_path, found)
    if config.mtls.enabled:
        for path, name in (
            ("Features.mTLS.MenderPasswordFile", config.mtls.mender_password_file),
            ("Features.mTLS.MenderTokenFile", config.mtls.mender_token_file),
        ):
            if name is not None and _read(path, name, found) is not None and _is_open_to_all(name):
                found.warnings.append(
                    f"{path}: {name} is readable by everybody; run: chmod 600 {name}"
                )
    if config.artifacts_proxy.enabled:
        found.errors += _verify_key_faults(config)
    found.errors = [printable(line, 1000) for line in found.errors]
    found.warnings = [printable(line, 1000) for line in found.warnings]
    return found


def _verify_key_faults(config: Config) -> Iterator[str]:
    for path in config.artifacts_proxy.verify_keys:
        try:
            read_key(path)
        except ValueError as error:
            yield str(error)


def _check_server(config: Config, now: float, found: Findings) -> None:
    certificate, key = config.https.server_certificate, config.https.server_key
    if certificate is None or key is None:
        return  # a fault of the settings, not of a file
    chain = _read("HTTPS.ServerCertificate", certificate, found)
    private = _read("HTTPS.ServerKey", key, found)
    if chain is None or private is None:
        return
    if _is_open_to_all(key):
        found.warnings.append(
            f"HTTPS.ServerKey: {key} is readable by everybody; run: chmod 600 {key}"
        )
    before = len(found.errors)
    found.errors += _pair_faults(certificate, chain, key, private, config.https.minimum_tls_version)
    if len(found.errors) == before:
        _check_dates("HTTPS.ServerCertificate", certificate, chain, now, found)


def _pair_faults(
    certificate: str, chain: bytes, key: str, private: bytes, minimum: str
) -> Iterator[str]:
    if not der.certificates(chain):
        yield (
            f"HTTPS.ServerCertificate: {certificate} holds no PEM certificate; "
            "it must contain -----BEGIN CERTIFICATE-----"
        )
    if b"PRIVATE KEY-----" not in private:
        yield (
            f"HTTPS.ServerKey: {key} holds no PEM private key; "
            "it must contain -----BEGIN PRIVATE KEY-----"
        )
        return
    if b"ENCRYPTED" in private:
        yield (
            f"HTTPS.ServerKey: {key} is protected by a passphrase; "
            f"write it without: openssl pkey -in {key} -out server.key"
        )
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if minimum in ("1.0", "1.1"):
        context.set_ciphers("DEFAULT@SECLEVEL=0")  # as the listener does
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        if der.certificates(chain):
            yield _pair_fault(certificate, key, error)
    except OSError as error:
        yield f"HTTPS.ServerCertificate: cannot read {certificate}: {error.strerror}"


def _pair_fault(certificate: str, key: str, error: ssl.SSLError) -> str:
    """What OpenSSL's reason means for the person who set the two files."""
    match error.reason:
        case "KEY_VALUES_MISMATCH" | "KEY_TYPE_MISMATCH" | "NO_CERTIFICATE_ASSIGNED":
            return (
                f"HTTPS.ServerKey: {key} does not belong to the certificate {certificate}; "
                "give both files of one pair"
            )
        case "EE_KEY_TOO_SMALL" | "CA_KEY_TOO_SMALL":
            return (
                f"HTTPS.ServerCertificate: the key of {certificate} is too small; make one of "
                "RSA 2048 bits or more, or P-256"
            )
        case "CA_MD_TOO_WEAK" | "EE_MD_TOO_WEAK":
            return (
                f"HTTPS.ServerCertificate: {certificate} is signed with an outdated digest; "
                "make one signed with SHA-256"
            )
        case _:
            reason = error.reason or error.strerror or "unknown reason"
            return (
                f"HTTPS.ServerCertificate: OpenSSL cannot use {certificate} with HTTPS.ServerKey "
                f"{key}: {reason.lower().replace('_', ' ')}; make both anew"
            )


def _check_dates(path: str, name: str, chain: bytes, now: float, found: Findings) -> None:
    for number, certificate in enumerate(der.certificates(chain)):
        try:
            begin, end = der.validity(certificate)
        except ValueError:
            continue  # OpenSSL has the last word on what is a certificate
        which = name if number == 0 else f"intermediate {number} of {name}"
        if now > end:
            found.warnings.append(
                f"{path}: {which} expired on {_day(end)}: devices will refuse it; renew it"
            )
        elif now < begin:
            found.warnings.append(
                f"{path}: {which} is not valid before {_day(begin)}: devices will refuse it; "
                "check the clock, or renew it"
            )
        elif end - now < _SOON:
            found.warnings.append(f"{path}: {which} expires on {_day(end)}; renew it")


def _check_bundle(path: str, name: str, now: float, found: Findings) -> None:
    content = _read(path, name, found)
    if content is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(name)
    except (ssl.SSLError, OSError):
        found.errors.append(
            f"{path}: {name} is no bundle of PEM certificates; "
            "it must contain only whole -----BEGIN CERTIFICATE----- blocks"
        )
        return
    ended = total = 0
    for certificate in der.certificates(content):
        try:
            total, ended = total + 1, ended + (der.validity(certificate)[1] < now)
        except ValueError:
            continue
    if ended:
        found.warnings.append(f"{path}: {ended} of {total} certificates in {name} have expired")


def _read(path: str, name: str, found: Findings) -> bytes | None:
    try:
        with open(name, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        advice = "name an existing file"
        if isinstance(error, PermissionError):
            advice = f"make it readable for user {os.geteuid()}"
        found.errors.append(f"{path}: cannot read {name}: {reason}; {advice}")
        return None
    if len(content) > _LARGEST_FILE:
        found.errors.append(f"{path}: {name} is larger than 16 MiB; name a PEM file")
        return None
    return content


def _is_open_to_all(name: str) -> bool:
    try:
        return bool(os.stat(name).st_mode & stat.S_IROTH)
    except OSError:
        return False


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
