"""The configuration files that operators of Mender Gateway have work as they are.

Only the paths of certificate and key are replaced, by those of files made for the test.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mender_gateway.config.certificates import check_certificates
from mender_gateway.config.load import Loaded, load
from mender_gateway.config.settings import Address, Endpoint, InventoryAttribute
from tests.config.files import Write
from tests.config.pki import make_certificate, write_pair

CERTIFICATE = "/usr/share/doc/mender-gateway/examples/cert/cert.crt"
KEY = "/usr/share/doc/mender-gateway/examples/cert/private.key"
HTTPS = f'"HTTPS": {{"Enabled": true, "Listen": ":443", "ServerCertificate": "{CERTIFICATE}", \
"ServerKey": "{KEY}"}}'
UPSTREAM = '"UpstreamServer": {"URL": "https://hosted.mender.io"}'
PROXY = '"Enabled": true, "GatewayURL": "https://gateway.docker.mender.io", \
"DomainWhitelist": ["s3.amazonaws.com"]'
WITH_CACHE = f"""{{
{HTTPS},
"Features": {{
"ArtifactsProxy": {{
{PROXY},
"ArtifactsCache": {{
"Enabled": true,
"Path": "/var/cache/mender-gateway"
}}
}}
}},
{UPSTREAM}
}}"""
WITH_SYSTEM = f"""{{
{HTTPS},
"Features": {{
"ArtifactsProxy": {{
{PROXY}
}},
"DeviceSystem": {{
"Enabled": true,
"SystemID": "REPLACE_WITH_YOUR_UNIQUE_SYSTEM_ID"
}}
}},
{UPSTREAM}
}}"""
WITH_INVENTORY: dict[str, Any] = {
    "Features": {
        "DeviceSystem": {
            "Enabled": True,
            "SystemID": "REPLACE_WITH_YOUR_UNIQUE_SYSTEM_ID",
            "DefaultInventory": [
                {"Name": "region", "Value": "eu"},
                {"Name": "customer_name", "Value": "ACME Inc."},
            ],
        }
    }
}


def load_example(text: str, write: Write, folder: Path) -> Loaded:
    certificate, key = write_pair(
        folder, make_certificate("gateway", hosts=("gateway.docker.mender.io",))
    )
    loaded = load(write(text.replace(CERTIFICATE, certificate).replace(KEY, key)), {})
    found = check_certificates(loaded.config, time.time())
    assert (found.errors, found.warnings, loaded.warnings) == ([], [], ())
    assert loaded.config.https.listen == Address("", 443)
    assert loaded.config.upstream.url == Endpoint("https", "hosted.mender.io", 443)
    proxy = loaded.config.artifacts_proxy
    assert proxy.enabled
    assert proxy.gateway_url == Endpoint("https", "gateway.docker.mender.io", 443)
    assert proxy.domain_whitelist == ("s3.amazonaws.com",)
    return loaded


def test_the_example_with_the_artifacts_cache(write: Write, tmp_path: Path) -> None:
    cache = load_example(WITH_CACHE, write, tmp_path).config.artifacts_proxy.cache
    assert cache.enabled
    assert cache.path == "/var/cache/mender-gateway"


def test_the_same_with_the_cache_as_a_mere_true(write: Write, tmp_path: Path) -> None:
    start = WITH_CACHE.index('"ArtifactsCache"')
    end = WITH_CACHE.index("}", start) + 1
    text = f'{WITH_CACHE[:start]}"ArtifactsCache": true{WITH_CACHE[end:]}'
    assert load_example(text, write, tmp_path).config.artifacts_proxy.cache.enabled


def test_the_example_with_a_device_system(write: Write, tmp_path: Path) -> None:
    config = load_example(WITH_SYSTEM, write, tmp_path).config
    assert config.device_system.system_id == "REPLACE_WITH_YOUR_UNIQUE_SYSTEM_ID"
    assert not config.artifacts_proxy.cache.enabled


@pytest.mark.parametrize("whole", [True, False])
def test_the_example_with_a_default_inventory(write: Write, tmp_path: Path, whole: bool) -> None:
    """It is a part of a file: the rest comes from the other example, or from the environment."""
    if whole:
        document = json.loads(WITH_SYSTEM)
        document["Features"] |= WITH_INVENTORY["Features"]
        config = load_example(json.dumps(document), write, tmp_path).config
    else:
        environment = {"HTTP_ENABLED": "true", "UPSTREAM_SERVER_URL": "https://hosted.mender.io"}
        config = load(write(WITH_INVENTORY), environment).config
    assert config.device_system.default_inventory == (
        InventoryAttribute("region", "eu"),
        InventoryAttribute("customer_name", "ACME Inc."),
    )
