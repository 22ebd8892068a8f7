"""Deployment instructions with another link, and not a byte else changed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_gateway.artifacts.deployment_document import Document, Rewritten, rewrite, rfc3339
from tests.artifacts.test_identity import S3

LOCAL = "https://gateway.lab/mender-gateway/v1/00?se=1&sr=x&sig=y"
END = 1_795_530_349.0


def localised(body: bytes) -> Document:
    return rewrite(body, lambda uri: Rewritten(LOCAL, END))


def test_the_answer_of_a_real_server_changes_in_two_places_only() -> None:
    body = (
        b'{"id":"1d","artifact":{"id":"5f","artifact_name":"release-1","source":{"uri":"%b",'
        b'"expire":"%b","method":"GET"},"device_types_compatible":["board"]}}'
    )
    sent = body % (S3.replace("&", "\\u0026").encode(), b"2026-11-24T14:25:49.069014932Z")
    seen: list[str] = []

    def decide(uri: str) -> Rewritten:
        seen.append(uri)
        return Rewritten(LOCAL, END)

    assert rewrite(sent, decide) == Document(body % (LOCAL.encode(), b"2026-11-24T14:25:49Z"))
    assert seen == [S3]


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
keys = st.sampled_from(["id", "uri", "expire", "source", "artifact", "x", "", "ä", '"', "\\"])
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
others = st.dictionaries(st.sampled_from(["id", "x", "url", "ä", "\u2028", '"']), documents)
styles = st.fixed_dictionaries(
    {
        "ensure_ascii": st.booleans(),
        "indent": st.sampled_from([None, 0, 3, "\t"]),
        "separators": st.sampled_from([None, (",", ":"), (" ,\n", "\r\t: ")]),
    }
)


@given(others, others, others, st.booleans(), styles, st.randoms(use_true_random=False))
def test_everything_but_link_and_end_survives_byte_for_byte(
    top: dict[str, Any],
    artifact: dict[str, Any],
    source: dict[str, Any],
    has_expire: bool,
    style: dict[str, Any],
    random: Any,
) -> None:
    def shuffled(members: dict[str, Any]) -> dict[str, Any]:
        return dict(random.sample(list(members.items()), len(members)))

    def document(uri: str, expire: str) -> bytes:
        end = {"expire": expire} if has_expire else {}
        random.seed(1)
        inner = shuffled({**source, **end, "uri": uri})
        return json.dumps(
            shuffled({**top, "artifact": shuffled({**artifact, "source": inner})}), **style
        ).encode()

    before = document("https://a/b?c&d", "2026-11-24T14:25:49.06Z")
    assert localised(before) == Document(document(LOCAL, rfc3339(END)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            b'{"artifact":{"source":{"uri":"a","URI":"b"}}}',
            b'{"artifact":{"source":{"uri":"L","URI":"L"}}}',
        ),
        (
            b'{"artifact":{"source":{"uri":"a"}},"Artifact":{"SOURCE":{"Uri":"b"}}}',
            b'{"artifact":{"source":{"uri":"L"}},"Artifact":{"SOURCE":{"Uri":"L"}}}',
        ),
        (
            b'{"artifact":{"source":{"uri":"a"},"source":{"uri":"b","expire":"","Expire":"x"}}}',
            b'{"artifact":{"source":{"uri":"L"},"source":{"uri":"L","expire":"E","Expire":"E"}}}',
        ),
        (
            b'{"\\u0061rtifact":{"\\u0073ource":{"\\u0075ri":"\\u0061"}}}',
            b'{"\\u0061rtifact":{"\\u0073ource":{"\\u0075ri":"L"}}}',
        ),
        (
            '{"artifact":{"ſource":{"uri":"a"}}}'.encode(),
            '{"artifact":{"ſource":{"uri":"L"}}}'.encode(),
        ),
        (
            b'{"artifact":{"source":{"uri":"a","expire":null}}}',
            b'{"artifact":{"source":{"uri":"L","expire":null}}}',
        ),
        (
            b' \n{"uri":"no","source":{"uri":"no"},"artifact":{"uri":"no","source":{"uri":"a"}}}\t',
            b' \n{"uri":"no","source":{"uri":"no"},"artifact":{"uri":"no","source":{"uri":"L"}}}\t',
        ),
        (
            b'{"n":1.0,"m":12345678901234567890.10e+5,"artifact":{"source":{"uri":"a"}}}',
            b'{"n":1.0,"m":12345678901234567890.10e+5,"artifact":{"source":{"uri":"L"}}}',
        ),
        (
            b'{"s":"\\ud800","artifact":{"source":{"uri":"a"}}}',
            b'{"s":"\\ud800","artifact":{"source":{"uri":"L"}}}',
        ),
    ],
)
def test_whatever_member_a_reader_prefers_has_the_new_link(before: bytes, after: bytes) -> None:
    expected = after.replace(b'"L"', f'"{LOCAL}"'.encode())
    expected = expected.replace(b'"E"', f'"{rfc3339(END)}"'.encode())
    assert localised(before) == Document(expected)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", ""),
        (b"null", "object"),
        (b"[]", "object"),
        (b'"artifact"', "object"),
        (b"<html>", "object"),
        (b"{}", "missing"),
        (b'{"artifact":{}}', "missing"),
        (b'{"artifact":{"source":{}}}', "missing"),
        (b'{"artifact":{"source":{"expire":"x"}}}', "missing"),
        (b'{"artifact":null}', "object"),
        (b'{"artifact":{"source":[]}}', "object"),
        (b'{"artifact":{"source":{"uri":1}}}', "string"),
        (b'{"artifact":{"source":{"uri":null}}}', "string"),
        (b'{"artifact":{"source":{"uri":"a","URI":["b"]}}}', "string"),
        (b'{"artifact":{"source":{"uri":"a"}}} x', "more than one"),
        (b'{"artifact":{"source":{"uri":"a"}},}', "name"),
        (b'{"artifact":{"source":{"uri":"a"}}', "comma"),
        (b'{"artifact":{"source":{"uri":"a" "x":1}}}', "comma"),
        (b'{"artifact" {"source":{"uri":"a"}}}', "colon"),
        (b'{"x":,"artifact":{"source":{"uri":"a"}}}', "value"),
        (b'{"x":NaN,"artifact":{"source":{"uri":"a"}}}', "NaN"),
        (b'{"artifact":{"source":{"uri":"a\n"}}}', "control"),
        (b'{"artifact":{"source":{"uri":"a\xff"}}}', "utf-8"),
        (b'\xef\xbb\xbf{"artifact":{"source":{"uri":"a"}}}', "object"),
        (b'{"x":' + b"[" * 100_000, "deep"),
        (b'{"x":' + b'{"a":' * 100_000, "deep"),
    ],
)
def test_what_are_no_instructions_pass_unchanged_with_the_reason(body: bytes, reason: str) -> None:
    document = localised(body)
    assert document.body == body
    assert document.reason is not None
    assert reason in document.reason


def test_a_link_that_stays_leaves_the_bytes_alone() -> None:
    body = b'{ "artifact" : {"source":{"uri":"a\\u0026b","expire":"x"}} }'
    assert rewrite(body, lambda uri: None) == Document(body)


def test_a_link_without_an_end_of_its_own_keeps_that_of_the_server() -> None:
    body = b'{"artifact":{"source":{"uri":"%b","expire":"2026"}}}'
    document = rewrite(body % b"a", lambda uri: Rewritten(LOCAL))
    assert document == Document(body % LOCAL.encode())


def test_if_one_of_several_links_must_stay_all_stay() -> None:
    body = b'{"artifact":{"source":{"uri":"a","URI":"b"}}}'
    document = rewrite(body, lambda uri: Rewritten(LOCAL) if uri == "a" else None)
    assert document.body == body
    assert document.reason is not None


def test_of_several_ends_the_first_is_said() -> None:
    body = b'{"artifact":{"source":{"uri":"9","URI":"5","expire":"x"}}}'
    document = rewrite(body, lambda uri: Rewritten("L", float(uri)))
    assert json.loads(document.body)["artifact"]["source"]["expire"] == "1970-01-01T00:00:05Z"


def test_a_new_link_is_quoted_as_json_wants_it() -> None:
    body = b'{"artifact":{"source":{"uri":"a"}}}'
    document = rewrite(body, lambda uri: Rewritten('a"\\\n\u00e4'))
    assert json.loads(document.body)["artifact"]["source"]["uri"] == 'a"\\\n\u00e4'


@given(st.binary(max_size=60) | documents.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_make_it_fail(body: bytes) -> None:
    document = localised(body)
    assert document.body == body or document.reason is None
