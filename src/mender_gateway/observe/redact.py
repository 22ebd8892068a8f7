"""What must never stand in a log: credentials, tokens, passwords, signatures.

`redact` is applied to every text before it is written. It rather hides too much than too little: a
query string, the user part of a URL, what follows Bearer, Basic or a name such as `token=`, and
words that look like a JSON Web Token or like a signed link. A cheap search decides first whether
there can be anything to hide.
"""

import re

HIDDEN = "***"

_SECRET_NAMES = (
    "password|passwd|passphrase|secret|token|signature|credential|authorization|cookie|sig|jwt"
)
_SUSPECT = re.compile(
    rf"://|\?|\be[wy]|bearer|basic|digest|[\w-]{{40}}|{_SECRET_NAMES}", re.IGNORECASE
)
_URL_REST = re.compile(r"://\S*")
_AUTHORITY_END = re.compile(r"[/?#]|$")
_USER = re.compile(r"[^@:/?]*:(?!\d+(?:[/?#]|$))")
_QUERY = re.compile(r"\?[^\"'<>]+")
_RULES = (
    # The query of a path alone.
    (re.compile(r"\?[^\s\"'<>=?]+=[^\s\"'<>]*"), f"?{HIDDEN}"),
    (re.compile(r"\b(bearer|basic|digest)(\s+)[\w.~+/=:-]+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    # JSON Web Tokens begin with the base64 of `{"` (RFC 7515).
    (re.compile(r"(?<![\w-])e[wy][\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"), HIDDEN),
    (re.compile(r"(?<![\w-])eyJ[\w-]{16,}"), HIDDEN),
    (
        re.compile(
            rf"((?:{_SECRET_NAMES})[\"']?\s*[:=]\s*[\"']?)(?!\*\*\*)[^\s\"'&,;}})]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)
_SECRET_FIELD = re.compile(rf"(?:^|_)(?:{_SECRET_NAMES})$")
_LONG_WORD = re.compile(r"[\w.~=-]{40,}")
_HARMLESS_PATH = re.compile(r"(?:/[A-Za-z0-9_.-]{0,39})+")


def redact(text: str) -> str:
    """The text with everything that may be a secret replaced by `***`."""
    if _SUSPECT.search(text) is None:
        return text
    text = _URL_REST.sub(_without_user_and_query, text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def _without_user_and_query(match: re.Match[str]) -> str:
    """A URL from its ``://`` to the next blank; storage links carry their signature in the query.

    Each character is looked at once, whatever the text: devices choose what is logged.
    """
    rest = match[0]
    parts: list[str] = []
    done = at = 0
    while "@" in rest and (at := rest.find("://", at)) >= 0:
        at += 3
        # The user part (RFC 3986 3.2.1), also with a raw slash in the password.
        end = _last_at_sign(rest, at)
        if end < 0 and (user := _USER.match(rest, at)):
            end = rest.find("@", user.end())
            end = max(end, _last_at_sign(rest, end))
        if end >= 0:
            parts += (rest[done:at], HIDDEN)
            done = at = end
    return _QUERY.sub(f"?{HIDDEN}", "".join((*parts, rest[done:])))


def _last_at_sign(rest: str, start: int) -> int:
    """Where the user part ends in the authority that goes on at `start`; -1 when there is none."""
    end = _AUTHORITY_END.search(rest, start) if start >= 0 else None
    return rest.rfind("@", start, end.start()) if end else -1


def redact_path(path: str) -> str:
    """A request's target for the access line: no query, no fragment, long words shortened.

    A segment of 40 characters or more is a token, never an identifier of the Mender API (those
    are UUIDs of 36).
    """
    path = path.partition("?")[0].partition("#")[0]
    if _HARMLESS_PATH.fullmatch(path):
        return path
    path = _LONG_WORD.sub(lambda match: match[0][:4] + HIDDEN, path)
    return redact(path)


def is_secret_field(name: str) -> bool:
    """Whether a field's name alone says that its value must not be written."""
    return _SECRET_FIELD.search(name) is not None
