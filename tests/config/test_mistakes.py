"""What is said about mistakes: unknown keys, wrong types, contradictions, dangers."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.config.keys import KEYS
from mender_gateway.config.load import examine, load
from tests.config.files import MINIMAL, UPSTREAM, Write, fault, proxying, with_features

UNKNOWN = [
    ({"Feature": {}}, "Feature", "Features"),
    ({"HTTPS": {"ServerCert": "/c"}}, "HTTPS.ServerCert", "HTTPS.ServerCertificate"),
    ({"Https": {"Enable": True}}, "HTTPS.Enable", "HTTPS.Enabled"),
    ({"GatewayURL": "https://gw"}, "GatewayURL", "Features.ArtifactsProxy.GatewayURL"),
    ({"Limits": {"Conections": 5}}, "Limits.Conections", "Limits.Connections"),
    ({"Features": {"MTLS": {"CACert": "/c"}}}, "Features.mTLS.CACert", "CACertificate"),
    (
        {"UpstreamServer": {"URL": "https://u", "ServerCertificate": "/c"}},
        "UpstreamServer.ServerCertificate",
        "UpstreamServer.CACertificate",
    ),
]


@pytest.mark.parametrize(("document", "key", "hint"), UNKNOWN)
def test_an_unknown_key_is_a_warning_with_the_nearest_known_one(
    write: Write, document: dict[str, object], key: str, hint: str
) -> None:
    (warning,) = load(write({**MINIMAL, **document}), {}).warnings
    assert warning.startswith(f"{key}: unknown key")
    assert warning.endswith(hint)


def test_a_key_like_no_other_has_no_hint(write: Write) -> None:
    (warning,) = load(write({**MINIMAL, "$comment": "x"}), {}).warnings
    assert warning.startswith("$comment: unknown key")
    assert "nearest" not in warning


def test_many_unknown_keys_neither_flood_nor_stall(write: Write) -> None:
    strange = {f"Unknown{number}\n{'x' * 50}": number for number in range(10_000)}
    warnings = load(write({**MINIMAL, **strange}), {}).warnings
    assert len(warnings) == 21
    assert warnings[-1].startswith("--config: 9980 more unknown keys")
    assert all(warning.isprintable() for warning in warnings)


def test_a_misspelt_variable_is_a_warning() -> None:
    (warning,) = load(
        None, {**UPSTREAM, "HTTPS_LISTN": ":1", "HTTPS_UNRELATED": "x", "HOME": "/"}
    ).warnings
    assert warning.startswith("HTTPS_LISTN: unknown environment variable")
    assert warning.endswith("HTTPS_LISTEN")


def test_a_file_named_explicitly_must_exist(tmp_path: Path) -> None:
    line = fault(str(tmp_path / "absent.conf"), UPSTREAM)
    assert "absent.conf" in line


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    assert "Is a directory" in fault(str(tmp_path), UPSTREAM)


def test_an_unreadable_file_is_an_error(write: Write) -> None:
    path = write(MINIMAL)
    Path(path).chmod(0)
    with no_root():
        assert "Permission denied" in fault(path)


@contextmanager
def no_root() -> Iterator[None]:
    """Root reads everything, nobody (65534) does not."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"HTTP": {"Enabled": true,}}', "line 1 column 27"),
        ('{\n  "HTTP": {\n', "line 3 column 1"),
        ("", "line 1 column 1"),
        ("[]", "a list"),
        ("null", "null"),
        ('"text"', "a string"),
        ('{"Limits": {"Connections": NaN}}', "NaN"),
        ("[" * 100_000, "JSON"),
        ('{"A": ' + "1" * 10_000 + "}", "JSON"),
        (" " * 1024 * 1024 + "{}", "larger than 1 MiB"),
    ],
)
def test_what_is_no_json_object_is_said_with_its_place(write: Write, text: str, place: str) -> None:
    assert place in fault(write(text))


def test_text_that_is_no_utf8_is_said_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_bytes(b'{\n "HTTP": "\xff"}')
    assert "line 2 column 11" in fault(str(path))


def test_a_byte_order_mark_is_tolerated(write: Write) -> None:
    assert load(write("\ufeff" + json.dumps(MINIMAL)), {}).config.http.enabled


@pytest.mark.parametrize(
    ("document", "start"),
    [
        ({"HTTP": True}, "HTTP: a boolean"),
        ({"HTTP": []}, "HTTP: a list"),
        ({"Features": {"ArtifactsProxy": "yes"}}, "Features.ArtifactsProxy: a string"),
        ({"HTTP": {"Enabled": "true"}}, 'HTTP.Enabled: "true"'),
        ({"HTTP": {"Enabled": 1}}, "HTTP.Enabled: 1"),
        ({"HTTP": {"Listen": 80}}, "HTTP.Listen: 80"),
        ({"HTTP": {"Listen": {"Port": 80}}}, "HTTP.Listen: an object"),
        ({"HTTPS": {"MinimumTLSVersion": 1.2}}, "HTTPS.MinimumTLSVersion: 1.2"),
        ({"HTTPS": {"MinimumTLSVersion": "1.4"}}, 'HTTPS.MinimumTLSVersion: "1.4"'),
        ({"StateDir": 7}, "StateDir: 7"),
        ({"DebugLog": "x"}, 'DebugLog: "x"'),
        ({"TrustedProxies": ["10.0.0.300"]}, "TrustedProxies: a list"),
        ({"TrustedProxies": "10.0.0.1"}, 'TrustedProxies: the list'),
        ({"Features": {"ArtifactsProxy": {"ArtifactsCache": "on"}}},
         'Features.ArtifactsProxy.ArtifactsCache.Enabled: "on"'),
        ({"Features": {"ArtifactsProxy": {"DomainWhitelist": ["a", "http://b\n"]}}},
         "Features.ArtifactsProxy.DomainWhitelist: a list"),
        ({"Features": {"ArtifactsProxy": {"ArtifactsCache": {"LinkExpireDuration": "1d"}}}},
         'Features.ArtifactsProxy.ArtifactsCache.LinkExpireDuration: "1d"'),
        ({"Features": {"DeviceSystem": {"SystemID": "a\nb"}}},
         'Features.DeviceSystem.SystemID: "a\\nb"'),
    ],
)  # fmt: skip
def test_a_wrong_type_or_value_names_key_and_value(
    write: Write, document: dict[str, object], start: str
) -> None:
    assert fault(write({**MINIMAL, **document})).startswith(start)


def test_a_wrong_value_of_the_environment_names_the_variable() -> None:
    line = fault(None, {**UPSTREAM, "METRICS_ENABLED": "perhaps"})
    assert line == (
        'Metrics.Enabled: "perhaps" (in METRICS_ENABLED) is no boolean; write "true" or "false"'
    )


@pytest.mark.parametrize(
    ("variable", "secret"),
    [
        ("UPSTREAM_SERVER_URL", "https://user:hunter2@host"),
        ("ARTIFACTS_PROXY_CACHE_SECRET", "hunter2!"),
        ("MTLS_MENDER_PASSWORD", "hunter2\n!"),
        ("HTTPS_PROXY", "ftp://user:hunter2@host"),
        ("http_proxy", "user:hunter2@host:port"),
        ("ARTIFACTS_PROXY_DOMAIN_WHITELIST", "https://user:hunter2@host"),
        ("ARTIFACTS_PROXY_GATEWAY_URL", "https://host/?token=hunter2"),
    ],
)
def test_no_error_shows_a_secret(variable: str, secret: str) -> None:
    line = fault(None, {**UPSTREAM, variable: secret})
    assert "hunter2" not in line
    assert "***" in line


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"HTTP": {"Enabled": True}}, "UpstreamServer.URL: missing"),
    ({"UpstreamServer": {"URL": "https://u"}}, "HTTP.Enabled: false"),
    (
        {**MINIMAL, "Metrics": {"Enabled": True, "Listen": ":80"}},
        'Metrics.Listen: ":80" takes the same port as HTTP.Listen ":80"',
    ),
    ({**MINIMAL, "HTTPS": {"Enabled": True, "ServerKey": "/k"}}, "HTTPS.ServerCertificate: miss"),
    ({**MINIMAL, "HTTPS": {"Enabled": True, "ServerCertificate": "/c"}}, "HTTPS.ServerKey: miss"),
    (
        with_features(ArtifactsProxy={"Enabled": True}),
        "Features.ArtifactsProxy.GatewayURL: missing",
    ),
    (with_features(DeviceSystem={"Enabled": True}), "Features.DeviceSystem.SystemID: missing"),
    (with_features(mTLS={"Enabled": True, "CACertificate": "/ca"}), "Features.mTLS.Enabled: true"),
    (
        {
            "HTTPS": {"Enabled": True, "ServerCertificate": "/c", "ServerKey": "/k"},
            **with_features(mTLS={"Enabled": True}),
        },
        "Features.mTLS.CACertificate: missing",
    ),
    (
        {
            "HTTPS": {"Enabled": True, "ServerCertificate": "/c", "ServerKey": "/k"},
            **with_features(
                mTLS={"Enabled": True, "CACertificate": "/ca"},
                ArtifactsProxy={"Enabled": True, "GatewayURL": "http://gw"},
            ),
        },
        'Features.ArtifactsProxy.GatewayURL: "http://gw" is plain http',
    ),
]


@pytest.mark.parametrize(("document", "start"), CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_refused(
    write: Write, document: dict[str, Any], start: str
) -> None:
    assert fault(write(document)).startswith(start)


def test_an_absent_default_file_is_mentioned_when_nothing_is_set() -> None:
    if Path("/etc/mender/mender-gateway.conf").exists():
        pytest.skip("a gateway is installed here")
    assert "there is no /etc/mender/mender-gateway.conf" in fault(None)


def test_an_examination_finds_every_error(write: Write) -> None:
    found = examine(write({"HTTP": {"Enabled": 1, "Listen": 2}, "StateDir": 3}), {})
    assert len(found.errors) == 3
    assert found.unusable == {"HTTP.Enabled", "HTTP.Listen", "StateDir"}


def test_secrets_in_a_file_that_everybody_reads_are_warned_about(write: Write) -> None:
    path = write(
        proxying(ArtifactsCache={"SignatureSecret": "c2VjcmV0" * 8}, DomainWhitelist=["s3"])
    )
    assert load(path, {}).warnings == ()
    Path(path).chmod(0o644)
    (warning,) = load(path, {}).warnings
    assert "chmod 600" in warning
    assert "c2VjcmV0" not in warning


@pytest.mark.parametrize(
    ("document", "word"),
    [
        (
            {**MINIMAL, "UpstreamServer": {"URL": "https://u", "InsecureSkipVerify": True}},
            "ANYBODY",
        ),
        (
            {
                **MINIMAL,
                "HTTPS": {
                    "Enabled": True,
                    "ServerCertificate": "/c",
                    "ServerKey": "/k",
                    "MinimumTLSVersion": "1.0",
                },
            },
            "OUTDATED",
        ),
        (proxying(), "DomainWhitelist: empty"),
        (with_features(ArtifactsProxy={"ArtifactsCache": True}), "without effect"),
        (
            proxying(DomainWhitelist=["s3"], ArtifactsCache={"SignatureSecret": "c2VjcmV0"}),
            "only 6 bytes",
        ),
    ],
)
def test_what_is_dangerous_or_pointless_is_warned_about(
    write: Write, document: dict[str, Any], word: str
) -> None:
    (warning,) = load(write(document), {}).warnings
    assert word in warning


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10), children, max_size=3)
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from([key.path for key in KEYS if key.in_file]), JSON_VALUES, max_size=6
    )
)
def test_whatever_the_file_holds_it_loads_or_is_one_line(values: dict[str, object]) -> None:
    document: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        node = document
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        json.dump(document, file)
        file.flush()
        found = examine(file.name, {})
    assert all(line.isprintable() for line in (*found.errors, *found.warnings))
    assert set(found.origins) == {key.path for key in KEYS}
