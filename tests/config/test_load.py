"""From file and environment to settings: names, precedence, defaults."""

from typing import Any

import pytest

from mender_gateway.config.keys import KEYS
from mender_gateway.config.load import Loaded, load
from mender_gateway.config.settings import (
    Address,
    Config,
    Endpoint,
    InventoryAttribute,
    UpstreamServer,
)
from tests.config.files import MINIMAL, UPSTREAM, Write, fault, proxying, with_features


def from_environment(**variables: str) -> Loaded:
    return load(None, {**UPSTREAM, **variables})


def test_the_environment_alone_configures_a_gateway() -> None:
    loaded = load(None, UPSTREAM)
    assert loaded.config.http.enabled
    assert loaded.config.upstream.url == Endpoint("https", "hosted.mender.io", 443)
    assert loaded.warnings == ()
    assert loaded.origins["HTTP.Enabled"] == "environment"
    assert loaded.origins["HTTP.Listen"] == "default"


def test_what_nobody_sets_is_as_the_types_say(write: Write) -> None:
    loaded = load(write(MINIMAL), {})
    assert loaded.config.limits == Config(UpstreamServer(loaded.config.upstream.url)).limits
    assert loaded.config.http.listen == Address("", 80)
    assert loaded.config.https.listen == Address("", 443)
    assert loaded.config.metrics.listen == Address("", 9102)
    assert loaded.config.artifacts_proxy.cache.link_expire == 24 * 3600
    assert loaded.config.mtls.enable_cache


def test_the_environment_lies_on_top_of_the_file(write: Write) -> None:
    path = write({**MINIMAL, "HTTP": {"Enabled": True, "Listen": ":8080"}})
    loaded = load(path, {"HTTP_LISTEN": "127.0.0.1:9090"})
    assert loaded.config.http.listen == Address("127.0.0.1", 9090)
    assert loaded.origins["HTTP.Listen"] == "environment"
    assert loaded.origins["HTTP.Enabled"] == "file"


def test_empty_variables_count_as_absent(write: Write) -> None:
    path = write({**MINIMAL, "HTTP": {"Enabled": True, "Listen": ":8080"}})
    loaded = load(path, {"HTTP_LISTEN": "", "HTTP_ENABLED": " ", "METRICS_ENABLED": ""})
    assert loaded.config.http.listen == Address("", 8080)
    assert loaded.origins["HTTP.Listen"] == "file"


def test_null_and_empty_strings_in_the_file_count_as_absent(write: Write) -> None:
    loaded = load(write({**MINIMAL, "HTTPS": None, "Metrics": {"Listen": "", "Enabled": None}}), {})
    assert loaded.config.metrics.listen == Address("", 9102)
    assert loaded.origins["Metrics.Listen"] == "default"


def test_keys_match_without_case(write: Write) -> None:
    path = write({"http": {"ENABLED": True}, "upstreamserver": {"Url": "http://server:8080"}})
    loaded = load(path, {})
    assert loaded.config.upstream.url == Endpoint("http", "server", 8080)
    assert loaded.warnings == ()


ENVIRONMENT = [
    ("HTTP_LISTEN", ":8080", "http.listen", Address("", 8080)),
    ("HTTPS_LISTEN", "[::1]:8443", "https.listen", Address("::1", 8443)),
    ("HTTPS_SERVER_CERTIFICATE", "/c", "https.server_certificate", "/c"),
    ("HTTPS_SERVER_KEY", "/k", "https.server_key", "/k"),
    ("HTTPS_MINIMUM_TLS_VERSION", "1.3", "https.minimum_tls_version", "1.3"),
    ("HTTPS_MINMUM_TLS_VERSION", "1.1", "https.minimum_tls_version", "1.1"),
    ("UPSTREAM_SERVER_URL", "http://a", "upstream.url", Endpoint("http", "a", 80)),
    ("UPSTREAM_SERVER_CA_CERTIFICATE", "/ca", "upstream.ca_certificate", "/ca"),
    ("UPSTREAM_SERVER_INSECURE_SKIP_VERIFY", "T", "upstream.insecure_skip_verify", True),
    (
        "ARTIFACTS_PROXY_GATEWAY_URL",
        "https://gw:8443",
        "artifacts_proxy.gateway_url",
        Endpoint("https", "gw", 8443),
    ),
    (
        "ARTIFACTS_PROXY_DOMAIN_WHITELIST",
        "a.com, .b.com c.com:9000,,",
        "artifacts_proxy.domain_whitelist",
        ("a.com", "b.com", "c.com:9000"),
    ),
    ("ARTIFACTS_PROXY_CACHE_ENABLED", "1", "artifacts_proxy.cache.enabled", True),
    ("ARTIFACTS_PROXY_CACHE_PATH", "/cache", "artifacts_proxy.cache.path", "/cache"),
    (
        "ARTIFACTS_PROXY_CACHE_SECRET",
        "c2VjcmV0",
        "artifacts_proxy.cache.signature_secret",
        b"secret",
    ),
    (
        "ARTIFACTS_PROXY_CACHE_LINK_EXPIRE_DURATION",
        "1h30m",
        "artifacts_proxy.cache.link_expire",
        5400.0,
    ),
    ("ARTIFACTS_PROXY_VERIFY_KEYS", "/a key,/b", "artifacts_proxy.verify_keys", ("/a key", "/b")),
    ("ARTIFACTS_PROXY_CACHE_MAX_SIZE", "10GB", "artifacts_proxy.cache.max_size", 10**10),
    ("ARTIFACTS_PROXY_CACHE_MIN_FREE_SPACE", "0", "artifacts_proxy.cache.min_free_space", 0),
    (
        "ARTIFACTS_PROXY_CACHE_SCRUB_INTERVAL",
        "14d",
        "artifacts_proxy.cache.scrub_interval",
        14 * 86_400.0,
    ),
    (
        "ARTIFACTS_PROXY_CACHE_UPLINK_RATE_LIMIT",
        "10mbit",
        "artifacts_proxy.cache.uplink_rate",
        1_250_000,
    ),
    ("MTLS_CA_CERTIFICATE", "/ca", "mtls.ca_certificate", "/ca"),
    ("MTLS_BLACKLIST_PATH", "/bl", "mtls.blacklist_path", "/bl"),
    ("MTLS_MENDER_USERNAME", "u@x", "mtls.mender_username", "u@x"),
    ("MTLS_MENDER_PASSWORD", "pass", "mtls.mender_password", "pass"),
    ("MTLS_ENABLE_CACHE", "FALSE", "mtls.enable_cache", False),
    ("MTLS_MENDER_PASSWORD_FILE", "/run/pass", "mtls.mender_password_file", "/run/pass"),
    ("MTLS_MENDER_TOKEN", "abc", "mtls.mender_token", "abc"),
    ("MTLS_MENDER_TOKEN_FILE", "/run/token", "mtls.mender_token_file", "/run/token"),
    ("MTLS_CRL_PATH", "/crls", "mtls.crl_path", "/crls"),
    ("MTLS_CRL_REQUIRED", "1", "mtls.crl_required", True),
    ("MTLS_REQUIRE_MATCHING_KEY", "true", "mtls.require_matching_key", True),
    (
        "MTLS_IDENTITY_FROM_CERTIFICATE",
        "mac=cn, host=SAN",
        "mtls.identity_from_certificate",
        (("mac", "CN"), ("host", "SAN")),
    ),
    (
        "MTLS_INSECURE_SKIP_CLIENT_EXPIRE_AFTER",
        "true",
        "mtls.insecure_skip_client_expire_after",
        True,
    ),
    ("DEVICE_SYSTEM_ID", "site 7", "device_system.system_id", "site 7"),
    ("METRICS_ENABLED", "true", "metrics.enabled", True),
    ("METRICS_LISTEN", ":0", "metrics.listen", Address("", 0)),
    ("STATE_DIR", "/state", "state_dir", "/state"),
    ("TRUSTED_PROXIES", "10.0.0.1,fd00::/8", "trusted_proxies", ("10.0.0.1", "fd00::/8")),
    ("HTTP_PROXY", "http://u:p@proxy:3128", "proxies.http", "http://u:p@proxy:3128"),
    ("http_proxy", "proxy:3128", "proxies.http", "proxy:3128"),
    ("HTTPS_PROXY", "http://proxy", "proxies.https", "http://proxy"),
    ("https_proxy", "http://proxy", "proxies.https", "http://proxy"),
    ("NO_PROXY", ".example.com 10.0.0.0/8", "proxies.no_proxy", ".example.com 10.0.0.0/8"),
    ("no_proxy", "localhost", "proxies.no_proxy", "localhost"),
    ("MTLS_MENDER_BACKEND", "https://b", "upstream.url", Endpoint("https", "b", 443)),
    ("UPSTREAM_SERVER", "https://b", "upstream.url", Endpoint("https", "b", 443)),
    ("MTLS_MENDER_USER", "u@x", "mtls.mender_username", "u@x"),
    ("MTLS_MENDER_PASS", "pass", "mtls.mender_password", "pass"),
    ("MTLS_TENANT_CA_PEM", "/ca", "mtls.ca_certificate", "/ca"),
    ("MTLS_SERVER_CERT", "/c", "https.server_certificate", "/c"),
    ("MTLS_SERVER_KEY", "/k", "https.server_key", "/k"),
    ("MTLS_DEBUG_LOG", "true", "debug_log", True),
    ("MTLS_LISTEN", "8080", "https.listen", Address("", 8080)),
    ("MTLS_HTTPS_TLS_VERSION_MIN", "1.3", "https.minimum_tls_version", "1.3"),
]


@pytest.mark.parametrize(("name", "text", "target", "value"), ENVIRONMENT)
def test_every_variable_sets_its_field(name: str, text: str, target: str, value: object) -> None:
    environment = {"HTTP_ENABLED": "1", name: text}
    if not target.startswith("upstream.url"):
        environment["UPSTREAM_SERVER_URL"] = "https://hosted.mender.io"
    node: Any = load(None, environment).config
    for field in target.split("."):
        node = getattr(node, field)
    assert node == value


def test_the_table_of_variables_is_tested_whole() -> None:
    switches = {"HTTP_ENABLED", "HTTPS_ENABLED", "MTLS_ENABLED", "DEVICE_SYSTEM_ENABLED"}
    tested = {row[0] for row in ENVIRONMENT} | switches | {"ARTIFACTS_PROXY_ENABLED"}
    assert {name for key in KEYS for name in key.environment} == tested


def test_a_present_name_goes_before_its_old_names() -> None:
    loaded = from_environment(MTLS_MENDER_BACKEND="https://old", UPSTREAM_SERVER="https://older")
    assert loaded.config.upstream.url.host == "hosted.mender.io"


def test_the_switches_can_be_set_by_the_environment() -> None:
    config = from_environment(
        HTTPS_ENABLED="true",
        HTTPS_SERVER_CERTIFICATE="/c",
        HTTPS_SERVER_KEY="/k",
        MTLS_ENABLED="t",
        MTLS_CA_CERTIFICATE="/ca",
        DEVICE_SYSTEM_ENABLED="1",
        DEVICE_SYSTEM_ID="x",
        ARTIFACTS_PROXY_ENABLED="TRUE",
        ARTIFACTS_PROXY_GATEWAY_URL="https://gw",
    ).config
    assert config.https.enabled
    assert config.mtls.enabled
    assert config.device_system.enabled
    assert config.artifacts_proxy.enabled


def test_the_cache_can_be_switched_on_by_true_alone(write: Write) -> None:
    loaded = load(write(proxying(ArtifactsCache=True, DomainWhitelist=["s3"])), {})
    assert loaded.config.artifacts_proxy.cache.enabled
    assert loaded.origins["Features.ArtifactsProxy.ArtifactsCache.Enabled"] == "file"
    assert loaded.warnings == ()


def test_limits_take_durations_seconds_and_sizes(write: Write) -> None:
    limits = {
        "RequestHead": "10s",
        "apifirstbyte": 90,
        "WriteStall": 1.5,
        "Connections": 20,
        "HeadBytes": "32KiB",
        "JSONBytes": 1_000_000,
        "ShutdownGrace": 0,
        "Handshake": "1m30s",
    }
    config = load(write({**MINIMAL, "Limits": limits}), {}).config
    assert config.limits.request_head == 10.0
    assert config.limits.api_first_byte == 90.0
    assert config.limits.write_stall == 1.5
    assert config.limits.connections == 20
    assert config.limits.head_bytes == 32768
    assert config.limits.json_bytes == 1_000_000
    assert config.limits.shutdown_grace == 0.0
    assert config.limits.handshake == 90.0
    assert config.limits.keep_alive == 120.0


@pytest.mark.parametrize(
    ("limits", "path"),
    [
        ({"RequestHead": 0}, "Limits.RequestHead: 0"),
        ({"RequestHead": "-5s"}, 'Limits.RequestHead: "-5s"'),
        ({"RequestHead": True}, "Limits.RequestHead: true"),
        ({"RequestHead": "soon"}, 'Limits.RequestHead: "soon"'),
        ({"Connections": 0}, "Limits.Connections: 0"),
        ({"Connections": -1}, "Limits.Connections: -1"),
        ({"Connections": 1.5}, "Limits.Connections: 1.5"),
        ({"Connections": "many"}, 'Limits.Connections: "many"'),
        ({"HeadBytes": "64 apples"}, 'Limits.HeadBytes: "64 apples"'),
        ({"HeadBytes": []}, "Limits.HeadBytes: a list"),
    ],
)
def test_limits_that_limit_nothing_are_refused(
    write: Write, limits: dict[str, object], path: str
) -> None:
    assert fault(write({**MINIMAL, "Limits": limits})).startswith(path)


def test_the_default_inventory_keeps_types_and_order(write: Write) -> None:
    entries = [
        {"Name": "region", "Value": "eu"},
        {"name": "floor", "value": 3},
        {"NAME": "tags", "VALUE": ["a", "b"]},
    ]
    system = {"Enabled": True, "SystemID": "s", "DefaultInventory": entries}
    assert load(write(with_features(DeviceSystem=system)), {}).config.device_system == (
        load(write({**MINIMAL, "Features": {"DeviceSystem": system}}), {}).config.device_system
    )
    found = load(write(with_features(DeviceSystem=system)), {}).config.device_system
    assert found.default_inventory == (
        InventoryAttribute("region", "eu"),
        InventoryAttribute("floor", 3),
        InventoryAttribute("tags", ["a", "b"]),
    )


def test_the_default_inventory_is_found_at_the_root_too(write: Write) -> None:
    entries = [{"Name": "region", "Value": "eu"}]
    loaded = load(write({**MINIMAL, "DefaultInventory": entries}), {})
    assert loaded.config.device_system.default_inventory == (InventoryAttribute("region", "eu"),)
    assert loaded.warnings == ()


@pytest.mark.parametrize("root_first", [True, False])
def test_the_default_inventory_of_the_section_goes_first(write: Write, root_first: bool) -> None:
    root = {"DefaultInventory": [{"Name": "a", "Value": "root"}]}
    section = {"Features": {"DeviceSystem": {"DefaultInventory": [{"Name": "a", "Value": "own"}]}}}
    parts = (root, section) if root_first else (section, root)
    loaded = load(write({**MINIMAL, **parts[0], **parts[1]}), {})
    assert loaded.config.device_system.default_inventory == (InventoryAttribute("a", "own"),)
    assert "set more than once" in loaded.warnings[0]


@pytest.mark.parametrize(
    "inventory",
    ["x", {}, [1], [{}], [{"Name": "a"}], [{"Value": "a"}], [{"Name": "", "Value": "a"}],
     [{"Name": "a", "Value": None}], [{"Name": "a", "Value": {}}], [{"Name": "a", "Value": True}],
     [{"Name": "a", "Value": ["b", 1]}]],
)  # fmt: skip
def test_a_malformed_inventory_is_refused(write: Write, inventory: object) -> None:
    line = fault(write(with_features(DeviceSystem={"DefaultInventory": inventory})))
    assert line.startswith("Features.DeviceSystem.DefaultInventory: ")


def test_no_secret_stands_in_the_representation_of_a_configuration() -> None:
    config = from_environment(
        MTLS_MENDER_PASSWORD="hunter2",
        ARTIFACTS_PROXY_CACHE_SECRET="aHVudGVyMmh1bnRlcjI=",
        HTTP_PROXY="http://u:hunter2@proxy",
    ).config
    assert "hunter2" not in repr(config)
