"""The management login: shared, kept, given up in time, never hammered, helpful when refused."""

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mtls.fleet import AUTH, DEVICES, LOGIN, Device
from tests.mtls.gateways import write_roots
from tests.support.authority import authority, issue
from tests.support.gateway import GatewayProcess, running_gateway
from tests.support.pki import make_server_pki
from tests.support.scripted import connect
from tests.support.stage import Received, Stage, running_stage

REFUSED = b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 14\r\n\r\n{"error":"no"}'


def token(lifetime: float | None, made: float = 1_000_000_000) -> str:
    claims = {"iat": made, **({} if lifetime is None else {"exp": made + lifetime})}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJSUzI1NiJ9.{payload}.c2ln"


def answer(status: int, body: bytes, *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def gateway_before(
    stage: Stage, folder: Path, **settings: object
) -> Iterator[tuple[GatewayProcess, Callable[[], int]]]:
    """A gateway, and a function that lets a new device ask and gives the status."""
    root = authority("Root")
    pki = make_server_pki(folder / "server")
    mtls = {
        "Enabled": True,
        "CACertificate": write_roots(folder / "roots.pem", root),
        "MenderUsername": "gateway@example.com",
        "MenderPassword": "pass:word",
        **settings,
    }
    config = {
        "HTTPS": {
            "Enabled": True,
            "Listen": "127.0.0.1:0",
            "ServerCertificate": str(pki.certificate),
            "ServerKey": str(pki.key),
        },
        "UpstreamServer": {"URL": stage.url},
        "Features": {"mTLS": mtls},
    }
    leaf = issue("device", root)
    context = leaf.context(folder, "device")
    asked = 0
    with running_gateway(folder, config) as gateway:

        def ask() -> int:
            nonlocal asked
            asked += 1
            device = Device({"n": asked}, leaf, leaf.key)
            peer = connect(gateway.ports["https"], context)
            with peer.sock:
                peer.send(device.request())
                return peer.answer()[0]

        yield gateway, ask


@pytest.fixture
def stage() -> Iterator[Stage]:
    with running_stage() as found:
        found.answer(AUTH, REFUSED)
        found.answer(DEVICES, answer(201, b""))
        yield found


def logins(stage: Stage) -> list[Received]:
    return stage.of(LOGIN)


def test_a_login_is_kept_for_all_calls(stage: Stage, tmp_path: Path) -> None:
    stage.answer(LOGIN, answer(200, token(3600).encode()))
    with gateway_before(stage, tmp_path) as (_, ask):
        assert [ask() for _ in range(4)] == [401] * 4
    (login,) = logins(stage)
    (given,) = login.values(b"authorization")
    assert base64.b64decode(given.removeprefix(b"Basic ")) == b"gateway@example.com:pass:word"
    assert login.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert login.values(b"content-length") == [b"0"]
    assert {each.values(b"authorization")[0] for each in stage.of(DEVICES)} == {
        b"Bearer " + token(3600).encode()
    }


def test_a_token_that_is_about_to_end_is_renewed_whatever_the_local_clock_says(
    stage: Stage, tmp_path: Path
) -> None:
    """Lifetimes come from the token's own dates, which lie decades back here."""
    stage.answer(LOGIN, answer(200, token(3600, made=1_000).encode()))
    with gateway_before(stage, tmp_path) as (_, ask):
        assert [ask() for _ in range(3)] == [401] * 3
    assert len(logins(stage)) == 1


def test_a_token_without_dates_is_kept_until_it_is_refused(stage: Stage, tmp_path: Path) -> None:
    stage.answer(LOGIN, answer(200, b"a.b.c"))
    with gateway_before(stage, tmp_path) as (_, ask):
        assert [ask(), ask()] == [401, 401]
        refused: list[int] = []

        def once_refused(peer: object, request: Received) -> None:
            request.body = peer.read_body(request.head)  # type: ignore[attr-defined]
            refused.append(1)
            peer.send(REFUSED if len(refused) == 1 else answer(201, b""))  # type: ignore[attr-defined]

        stage.on(DEVICES, once_refused)
        assert ask() == 401
        assert len(refused) == 2
    assert len(logins(stage)) == 2


def test_a_new_token_that_is_refused_is_not_followed_by_another_login(
    stage: Stage, tmp_path: Path
) -> None:
    stage.answer(LOGIN, answer(200, token(3600).encode()))
    stage.answer(DEVICES, REFUSED)
    with gateway_before(stage, tmp_path) as (gateway, ask):
        assert [ask() for _ in range(5)] == [401] * 5
        gateway.wait_for_log("refuses the management token")
    assert len(logins(stage)) == 1
    assert len(stage.of(DEVICES)) == 1


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        (answer(401, b'{"error":"unauthorized"}'), "check Features.mTLS.MenderUsername"),
        (answer(401, b'{"error":"2fa token missing"}'), "this user has two-factor authentication"),
        (
            # Word for word as the documentation of Mender's API has it.
            answer(200, b'{"id": "1a97b53f-9b84-5048-8874-df01f4f58f78", "kind": "sso/saml"}'),
            "this user logs in by single sign-on",
        ),
        (answer(200, b'{"id":"x","kind":"sso/oidc"}'), "this user logs in by single sign-on"),
        (answer(302, b"", "Location: https://idp.example.com/"), "logs in by single sign-on"),
        (answer(200, b"<html>sign in</html>"), "check UpstreamServer.URL"),
        (answer(404, b'{"error":"not found"}'), "check UpstreamServer.URL"),
    ],
    ids=["wrong", "two factors", "SAML", "OIDC", "redirect", "page", "another server"],
)
def test_a_refused_login_says_what_to_do_and_is_not_repeated(
    reply: bytes, advice: str, stage: Stage, tmp_path: Path
) -> None:
    stage.answer(LOGIN, reply)
    with gateway_before(stage, tmp_path) as (gateway, ask):
        assert [ask() for _ in range(4)] == [401] * 4
        line = gateway.wait_for_log('level=error msg="devices cannot be authorised: .*')[0]
        assert advice in line
        assert ("personal access token" in line) is ("UpstreamServer" not in advice)
        assert gateway.log.count("devices cannot be authorised") == 1
    assert len(logins(stage)) == 1


def test_a_user_without_permission_is_reported(stage: Stage, tmp_path: Path) -> None:
    stage.answer(LOGIN, answer(200, token(3600).encode()))
    stage.answer(DEVICES, answer(403, b'{"error":"Access denied (RBAC)."}'))
    with gateway_before(stage, tmp_path) as (gateway, ask):
        assert ask() == 401
        gateway.wait_for_log("the management user may not do that.*permission to manage devices")


def test_without_credentials_devices_are_not_authorised_and_the_log_says_so(
    stage: Stage, tmp_path: Path
) -> None:
    with gateway_before(stage, tmp_path, MenderPassword="") as (gateway, ask):
        assert ask() == 401
        gateway.wait_for_log("there are no credentials to authorise devices with")
    assert logins(stage) == []


def test_a_password_file_is_read_anew_and_its_absence_said(stage: Stage, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("from the file\n")
    stage.answer(LOGIN, answer(200, token(3600).encode()))
    settings = {"MenderPassword": "", "MenderPasswordFile": str(secret)}
    with gateway_before(stage, tmp_path, **settings) as (_, ask):
        assert ask() == 401
    (given,) = logins(stage)[0].values(b"authorization")
    assert base64.b64decode(given.removeprefix(b"Basic ")).endswith(b":from the file")


def test_a_changed_password_file_is_tried_at_once(stage: Stage, tmp_path: Path) -> None:
    """A wrong password is tried once a minute, but nobody has to wait who has put it right."""
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    stage.answer(LOGIN, REFUSED)
    settings = {"MenderPassword": "", "MenderPasswordFile": str(secret)}
    with gateway_before(stage, tmp_path, **settings) as (gateway, ask):
        assert [ask(), ask()] == [401, 401]
        assert len(logins(stage)) == 1
        stage.answer(LOGIN, answer(200, token(3600).encode()))
        replace(secret, "right\n")
        gateway.wait_for_log("msg=reloaded")
        assert ask() == 401
    first, second = (each.values(b"authorization")[0] for each in logins(stage))
    assert base64.b64decode(first.removeprefix(b"Basic ")).endswith(b":wrong")
    assert base64.b64decode(second.removeprefix(b"Basic ")).endswith(b":right")
    assert len(stage.of(DEVICES)) == 1


def test_a_changed_token_file_is_used_at_once(stage: Stage, tmp_path: Path) -> None:
    """One that is replaced because it leaked must not be used until the server refuses it."""
    secret = tmp_path / "token"
    secret.write_text("old.old.old\n")
    settings = {"MenderPassword": "", "MenderTokenFile": str(secret)}
    with gateway_before(stage, tmp_path, **settings) as (gateway, ask):
        assert ask() == 401
        replace(secret, "new.new.new\n")
        gateway.wait_for_log("msg=reloaded")
        assert ask() == 401
        secret.unlink()
        assert ask() == 401
    assert [each.values(b"authorization")[0] for each in stage.of(DEVICES)] == [
        b"Bearer old.old.old",
        b"Bearer new.new.new",
        b"Bearer new.new.new",
    ]
    assert logins(stage) == []


def replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    os.replace(beside, path)


def test_an_unusable_device_in_an_answer_is_trouble(stage: Stage, tmp_path: Path) -> None:
    stage.answer(LOGIN, answer(200, token(3600).encode()))
    stage.answer(DEVICES, answer(409, b'{"nothing":1}'))
    with gateway_before(stage, tmp_path) as (_, ask):
        assert ask() == 503


def test_a_request_that_the_server_does_not_understand_is_reported_once(
    stage: Stage, tmp_path: Path
) -> None:
    stage.answer(LOGIN, answer(200, token(3600).encode()))
    stage.answer(DEVICES, answer(400, b'{"error":"identity_data: bad"}'))
    with gateway_before(stage, tmp_path) as (gateway, ask):
        assert ask() == 401
        gateway.wait_for_log("refuses to authorise a device.*400.*identity_data: bad")
