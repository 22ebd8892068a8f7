"""Log records as lines of text: logfmt in the manner of logrus, or one JSON object each.

Pure functions. Whatever a value holds, a record stays one line: control characters, line separators
and characters that reorder text are escaped.
"""

import json
import re
import time
from collections.abc import Iterable

from mender_gateway.observe.redact import HIDDEN, is_secret_field, redact, redact_path

DEBUG, INFO, WARN, ERROR, FATAL = 10, 20, 30, 40, 50
LEVELS = {"debug": DEBUG, "info": INFO, "warn": WARN, "error": ERROR, "fatal": FATAL}
_WRITTEN = {DEBUG: "debug", INFO: "info", WARN: "warning", ERROR: "error", FATAL: "fatal"}

_BARE = re.compile(r"[A-Za-z0-9\-._/@^+]+")
"""What logrus (TextFormatter.needsQuoting) leaves without quotes."""
_RESERVED = frozenset({"time", "level", "msg"})
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
LONGEST = 2048
"""Characters of one value; the rest is cut."""

Field = tuple[str, object]
Access = tuple[str, str, int, int, float, str | None, str, str, str, str | None]
"""The values of an access line, in the order of `_ACCESS`."""
_ACCESS = (
    "method",
    "path",
    "status",
    "bytes",
    "duration",
    "device",
    "request_id",
    "route",
    "peer",
    "error",
)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, as logrus writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def quote(text: str) -> str:
    """The text as it is when harmless, else in quotes with Go's escapes (strconv.Quote)."""
    if _BARE.fullmatch(text):
        return text
    if text.isprintable():
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if escaped := _ESCAPES.get(character):
        return escaped
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def plain(name: str, value: object) -> str | int | float | bool:
    """A field's value as text or number, free of secrets and of bounded length."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6)
    if is_secret_field(name):
        return HIDDEN
    if isinstance(value, bytes | bytearray):
        text = value[: LONGEST + 1].decode("latin-1")
    elif isinstance(value, str):
        text = value
    else:
        text = _text_of(value)
    if _is_harmless(text):
        return text
    if len(text) > LONGEST:
        text = text[:LONGEST] + "…"
    return redact(text)


def _is_harmless(text: str) -> bool:
    """Whether the text is one bare word, too short for a token."""
    return len(text) < 40 and _BARE.fullmatch(text) is not None


def _text_of(value: object) -> str:
    try:
        text = str(value)
    except Exception as error:  # whatever __str__ does, the line is written
        return f"{type(value).__name__} without text: {type(error).__name__}"
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {text}" if text else type(value).__name__
    return text


def logfmt(when: str, level: int, message: str, fields: Iterable[Field]) -> str:
    """One line without its line end; fields whose value is None are left out."""
    parts = [f'time="{when}" level={_WRITTEN[level]} msg={quote(str(plain("msg", message)))}']
    for name, value in fields:
        if value is None:
            continue
        known = plain(name, value)
        if isinstance(known, str):
            text = quote(known)
        elif isinstance(known, bool):
            text = "true" if known else "false"
        else:
            text = _number(known)
        parts.append(f"{'fields.' if name in _RESERVED else ''}{name}={text}")
    return " ".join(parts)


def _number(value: int | float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def logfmt_access(when: str, level: int, values: Access) -> str:
    """The same for the access line, of which there are many: no field is looked at twice."""
    method, path, status, size, seconds, device, request_id, route, peer, error = values
    known = f" device={_word(device)}" if device else ""
    why = f" error={quote(redact(error))}" if error else ""
    return (
        f'time="{when}" level={_WRITTEN[level]} msg=request method={_word(method)} '
        f"path={quote(redact_path(path))} status={status} bytes={size} duration={seconds:.6f}"
        f"{known} request_id={_word(request_id)} route={route} peer={quote(peer)}{why}"
    )


def _word(text: str) -> str:
    return text if _is_harmless(text) else quote(redact(text))


def json_access(when: str, level: int, values: Access) -> str:
    """The access line as one JSON object."""
    fields = dict(zip(_ACCESS, values, strict=True))
    fields["path"] = redact_path(values[1])
    return json_line(when, level, "request", fields.items())


def json_line(when: str, level: int, message: str, fields: Iterable[Field]) -> str:
    """The same record as one JSON object, escaped down to ASCII."""
    record: dict[str, object] = {"time": when, "level": _WRITTEN[level]}
    record["msg"] = plain("msg", message)
    for name, value in fields:
        if value is not None:
            known = plain(name, value)
            if isinstance(known, float) and not -1e300 < known < 1e300:
                known = str(known)  # JSON knows neither NaN nor infinity
            record[f"fields.{name}" if name in _RESERVED else name] = known
    return json.dumps(record, ensure_ascii=True).replace("\x7f", "\\u007f")
