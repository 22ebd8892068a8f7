"""The embedded upstream is held to what a real server answered, exchange by exchange.

`transcript.json` has the exchanges in their order. Every request is sent over a real socket; the
answer's status, fields (names, case, order, values) and body must be those of the transcript, with
the text in «» standing for what varies: it matches a pattern, and where the transcript repeats it
(identifiers), the same value is demanded again.
"""

import base64
import gzip
import http.client
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mender_gateway.demo.apis import tokens
from mender_gateway.demo.artifact import ArtifactFile, write_artifact
from mender_gateway.demo.blobs import GeneratedBlob
from mender_gateway.demo.cloud import Cloud, CloudSettings, running
from mender_gateway.demo.keys import PrivateKey, new_key, public_pem, signature

TRANSCRIPT = json.loads((Path(__file__).parent / "transcript.json").read_text())
PAYLOAD = 700_000
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z"
PATTERNS = {
    "request-id": rf"{UUID}|[0-9A-F]{{16}}",
    "time": TIME,
    "expire": r"\d{4}-\d\d-\d\dT\d\d%3A\d\d%3A\d\dZ",
    "date": r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT",
    "day": r"\d{8}",
    "amz-date": r"\d{8}T\d{6}Z",
    "signature": r"[0-9a-f]{64}",
    "link-signature": r"[\w-]{43}",
    "sha256": r"[0-9a-f]{64}",
    "etag": r'"[0-9a-f]{32}"',
    "amzn": r"[\w-]{52}",
    "host-id": r"[^<]{76}",
    "length": r"\d+",
    "jwt": r"eyJ[\w-]+\.[\w-]+\.[\w-]+",
}
BOUND = re.compile(r"id\d+|day|amz-date|signature|expire|link-signature")
"""Placeholders whose first value is demanded, and sent, from then on."""
AUTH = "/api/devices/v1/authentication/auth_requests"
NEXT = "/api/devices/v1/deployments/device/deployments/next"


class Replay:
    """The exchanges against one cloud; `wrong` collects what differs."""

    def __init__(self, cloud: Cloud, artifact: ArtifactFile) -> None:
        self.cloud, self.artifact = cloud, artifact
        self.wrong: list[str] = []
        self.exchanges = 0
        self.keys: dict[str, PrivateKey] = {}
        self.bodies: dict[str, bytes] = {}
        upstream = cloud.upstream
        wrong_login = base64.b64encode(f"{upstream.user}:nope".encode()).decode()
        login = base64.b64encode(f"{upstream.user}:{upstream.password}".encode()).decode()
        self.values = {
            "host": upstream.base.removeprefix("http://"),
            "store": cloud.storage.authority,
            "login": login,
            "wrong-login": wrong_login,
            "wrong-signature": "A" * 512,
            "wrong": "0" * 64,
            "wrong-link": "A" * 43,
            "multipart": "multipart/form-data; boundary=transcript",
            "size": str(artifact.size),
            "size-1": str(artifact.size - 1),
            "size-10": str(artifact.size - 10),
            "size+10": str(artifact.size + 10),
            "payload": str(PAYLOAD),
        }
        self.mac = ""
        """Of the device that `token2` belongs to."""
        self.connections: dict[str, http.client.HTTPConnection] = {}

    def key(self, name: str) -> PrivateKey:
        if name not in self.keys:
            self.keys[name] = new_key(TRANSCRIPT["keys"].get(name, "ec"))
        return self.keys[name]

    def value(self, name: str) -> str:
        """What a placeholder stands for in a request, or in an answer once it is known."""
        if re.fullmatch(r"(old-)?key\d+", name):
            return json.dumps(public_pem(self.key(name)))[1:-1]
        if name == "expired":
            device = self.cloud.upstream.devices()[0]
            return tokens.device_token(device.auth_sets[0].id, device.id, 0)
        if re.fullmatch(r"id\d+", name):
            return self.values.setdefault(name, str(uuid.uuid4()))
        return self.values[name]

    def filled(self, text: str) -> str:
        return re.sub("«([^»]+)»", lambda match: self.value(match[1]), text)

    def pattern(self, text: str, local: set[str]) -> re.Pattern[str]:
        """`text` as a pattern; placeholders that are not known yet become groups."""
        parts = re.split("«([^»]+)»", text)
        pattern = re.escape(parts[0])
        for name, literal in zip(parts[1::2], parts[2::2], strict=True):
            group = name.replace("-", "_")
            if name in local:
                pattern += f"(?P={group})"
            elif name in self.values or name.startswith("key"):
                pattern += re.escape(self.value(name))
            elif BOUND.fullmatch(name) or name == "request-id":
                pattern += f"(?P<{group}>{PATTERNS.get(name, UUID)})"
                local.add(name)
            else:
                pattern += f"(?:{PATTERNS[name]})"
            pattern += re.escape(literal)
        return re.compile(pattern, re.DOTALL)

    def match(self, what: str, expected: str, got: str) -> None:
        match = self.pattern(expected, set()).fullmatch(got)
        if match is None:
            self.wrong.append(f"{what}\n   wanted {expected}\n   got    {got}")
            return
        for group, value in match.groupdict().items():
            name = group.replace("_", "-")
            self.values[name] = value

    def send(
        self, method: str, target: str, headers: list[str], body: bytes
    ) -> tuple[http.client.HTTPResponse, bytes]:
        to_store = any(h == f"Host: {self.values['store']}" for h in headers) or target.startswith(
            "/mender/"
        )
        authority = self.values["store" if to_store else "host"]
        if authority not in self.connections:
            self.connections[authority] = http.client.HTTPConnection(authority, timeout=20)
        connection = self.connections[authority]
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for header in headers:
            connection.putheader(*header.split(": ", 1))
        if body or method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response, response.read()

    def exchange(self, step: dict[str, Any]) -> None:
        self.exchanges += 1
        name = f"{step['section']} / {step['name']}"
        request, answer = step["request"], step["answer"]
        if request["body"] == "«upload»":
            body = self.upload()
        else:
            body = self.filled(request["body"]).encode()
        self.values.pop("request-id", None)
        key = re.search("«(key\\d+)»", request["body"])
        if key:
            self.values["sign"] = signature(self.key(key[1]), body)
        if "auth/login" not in request["target"] and "«amz-date»" not in request["target"]:
            for fresh in ("day", "amz-date", "signature", "expire", "link-signature"):
                if f"«{fresh}»" in answer["body"]:
                    self.values.pop(fresh, None)
        target = self.filled(request["target"])
        headers = [self.filled(header) for header in request["headers"]]
        response, content = self.send(request["method"], target, headers, body)
        if response.status != answer["status"] or response.reason != answer["reason"]:
            wanted = f"{answer['status']} {answer['reason']}"
            self.wrong.append(f"{name}: {response.status} {response.reason}, not {wanted}")
        got_headers = "\n".join(f"{n}: {v}" for n, v in response.getheaders())
        self.match(f"{name}: fields", "\n".join(answer["headers"]), got_headers)
        self.body(name, step, content)
        if answer["body"] == "«jwt»":
            name = "user" if "login" in target else "token1"
            self.values.setdefault(name, content.decode())

    def body(self, name: str, step: dict[str, Any], content: bytes) -> None:
        expected = step["answer"]["body"]
        if expected == "«gzip»":
            assert isinstance(json.loads(gzip.decompress(content)), list)
        elif expected == "«binary»":
            self.binary(name, step, content)
        elif "any_order" in step:
            member = step["any_order"]
            wanted, got = json.loads(expected), json.loads(content)
            for value in (wanted, got):
                value[member] = sorted(
                    value.get(member, []), key=lambda attribute: attribute["name"]
                )
            plain = json.JSONEncoder(ensure_ascii=False).encode
            self.match(name, plain(wanted), plain(got))
        else:
            self.match(name, expected, content.decode())

    def binary(self, name: str, step: dict[str, Any], content: bytes) -> None:
        whole = self.artifact.path.read_bytes()
        match name.partition(" / ")[2]:
            case "download by the presigned link":
                wanted = whole
            case "range":
                wanted = whole[1000:2000]
            case "range to the end":
                wanted = whole[-10:]
            case _:
                wanted = self.bodies.setdefault("configuration", content)
        if content != wanted:
            self.wrong.append(f"{name}: other bytes")

    def upload(self) -> bytes:
        artifact = self.artifact.path.read_bytes()
        fields = {"size": str(len(artifact)).encode(), "description": b"lab artifact"}
        form = b"".join(
            b'--transcript\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
            % (name.encode(), value)
            for name, value in fields.items()
        )
        head = b'Content-Disposition: form-data; name="artifact"; filename="a.mender"\r\n\r\n'
        return form + b"--transcript\r\n" + head + artifact + b"\r\n--transcript--\r\n"

    def authenticate(self, mac: str, key: str) -> int:
        value = {"id_data": json.dumps({"mac": mac}), "pubkey": public_pem(self.key(key))}
        body = json.dumps(value).encode()
        signed = f"X-MEN-Signature: {signature(self.key(key), body)}"
        headers = [f"Host: {self.values['host']}", "Content-Type: application/json", signed]
        response, content = self.send("POST", AUTH, headers, body)
        if response.status == 200:
            self.values["token"] = content.decode()
        return response.status

    def prepare(self, step: dict[str, Any]) -> None:
        upstream = self.cloud.upstream
        if step["do"] == "deploy":
            device = upstream.device({"mac": self.mac})
            assert device is not None
            deployment = upstream.deploy("release-4606d7", [device.identity])
            self.values[step["deployment"].strip("«»")] = deployment
            if step.get("poll"):
                body = {"device_type": "lab-board", "artifact_name": "release-1"}
                headers = [
                    f"Host: {self.values['host']}",
                    f"Authorization: Bearer {self.values['token2']}",
                ]
                response, _ = self.send("POST", NEXT, headers, json.dumps(body).encode())
                assert response.status == 200
            return
        identity = {"mac": step["mac"]}
        state, key = step["state"], step["key"]
        if state == "preauthorized":
            upstream.devauth.preauthorise(identity, public_pem(self.key(key)))
            return
        self.authenticate(step["mac"], key)
        device = upstream.device(identity)
        assert device is not None
        auth_set = device.set_for(public_pem(self.key(key)))
        assert auth_set is not None
        if "set" in step:
            self.values[step["set"].strip("«»")] = auth_set.id
        if state == "noauth":
            assert upstream.devauth.remove_set(device.id, auth_set.id)
        elif state != "pending":
            upstream.devauth.set_status(device.id, auth_set.id, state)
        if "token" in step:
            assert self.authenticate(step["mac"], key) == 200
            self.values[step["token"]] = self.values["token"]
            self.mac = step["mac"]

    def check_force(self, step: dict[str, Any], before: dict[str, Any]) -> None:
        """After preauthorising with force: statuses, the first authentication, statuses."""
        new = re.search("«(key\\d+)»", before["request"]["body"])
        mac = re.search(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", before["request"]["body"])
        assert new is not None
        assert mac is not None
        same = "same key" in before["name"]
        old = new[1] if same else f"old-{new[1]}"
        self.compare(step, before["name"], mac[0], old, new[1])
        if self.authenticate(mac[0], new[1]) != 200:
            self.wrong.append(f"{before['name']}: the new key is not let in")
        self.compare(step["then"], before["name"], mac[0], old, new[1])

    def compare(self, wanted: dict[str, Any], name: str, mac: str, old: str, new: str) -> None:
        device = self.cloud.upstream.device({"mac": mac})
        assert device is not None
        found = {"device": str(device.status)}
        for which, key in (("old", old), ("new", new)):
            auth_set = device.set_for(public_pem(self.key(key)))
            found[which] = str(auth_set.status) if auth_set else "None"
        expected = {member: wanted[member] for member in found}
        if found != expected:
            self.wrong.append(f"{name}: {found}, not {expected}")

    def run(self) -> None:
        before: dict[str, Any] = {}
        for step in TRANSCRIPT["steps"]:
            if "request" in step:
                self.exchange(step)
                before = step
            elif "do" in step:
                self.prepare(step)
            else:
                self.check_force(step, before)


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    path = tmp_path_factory.mktemp("transcript") / "release.mender"
    artifact = write_artifact(
        path,
        name="release-4606d7",
        device_types=["lab-board"],
        files={"payload": GeneratedBlob(PAYLOAD)},
    )
    with running(CloudSettings(bucket="mender")) as cloud:
        replay = Replay(cloud, artifact)
        try:
            replay.run()
            assert not cloud.upstream.server.failures
            yield replay
        finally:
            for connection in replay.connections.values():
                connection.close()


def test_every_answer_is_the_real_servers(replay: Replay) -> None:
    assert replay.exchanges == 143
    assert not replay.wrong, "\n".join(replay.wrong)


def test_device_tokens_have_the_real_claims(replay: Replay) -> None:
    header, claims, _ = replay.values["token1"].split(".")
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {"alg": "RS256", "typ": "JWT"}
    value = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert value["exp"] - value["iat"] == 7 * 24 * 3600
    for varying in ("jti", "sub", "exp", "iat"):
        del value[varying]
    names = ("configure", "troubleshoot", "monitor")
    assert value == {
        "iss": "Mender",
        "nbf": -62135596800,
        "mender.device": True,
        "mender.plan": "enterprise",
        "mender.trial": False,
        "mender.addons": [{"name": name, "enabled": True} for name in names],
    }
    assert len(replay.values["token1"]) == 1024


def test_user_tokens_have_the_real_claims(replay: Replay) -> None:
    header, claims, _ = replay.values["user"].split(".")
    value = json.loads(base64.urlsafe_b64decode(header + "=="))
    assert value == {"alg": "RS256", "kid": 0, "typ": "JWT"}
    value = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert list(value) == ["jti", "sub", "exp", "iat", "mender.user", "iss", "scp", "nbf"]
    assert (value["iss"], value["scp"], value["mender.user"]) == (
        "mender.useradm",
        "mender.*",
        True,
    )
    assert len(replay.values["user"]) == 829
