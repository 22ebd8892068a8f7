"""Inventory that passes the gateway: what every device of this system says besides its own.

A device's list of attributes is never re-encoded: the gateway's own go before the closing bracket,
so that numbers, spacing and unknown members arrive as they were sent. Only a claim to
``mender_gateway_system_id`` is cut out. The server reads member names without regard to case, and
of repeated ones the last: a claim in such a disguise is a claim too. Bodies without anything
that could be one, nearly all, are read once by msgspec and not walked at all.
"""

from collections.abc import Iterable, Sequence

import msgspec

from mender_gateway import errors, jsontext
from mender_gateway.config.settings import InventoryAttribute

SYSTEM_ID = "mender_gateway_system_id"
"""The attribute by which the server knows which devices belong to one gateway."""

_BLANKS = b" \t\n\r"


class _Entry(msgspec.Struct, gc=False):
    name: str
    value: msgspec.Raw


_entries = msgspec.json.Decoder(list[_Entry])


def inject(body: bytes, system_id: str, defaults: Sequence[InventoryAttribute]) -> bytes:
    """`body` with ``mender_gateway_system_id``, and with those `defaults` that it does not name.

    Order and bytes of all other attributes stay. A body that is not a JSON list of objects with
    name and value comes back unchanged. Raises errors.BadRequest for one that the server could
    still read and we cannot. Costs one pass over the body; a body with a claim, with escapes, or
    with what msgspec does not take is walked in Python (about 2 µs an attribute).
    """
    if (names := _names_at_once(body)) is not None:
        kept = body.rstrip(_BLANKS)
        tail = body[len(kept) - 1 :]
        return b"".join((kept[:-1], _added(names, system_id, defaults), tail))
    try:
        return _walk(body, system_id, defaults)
    except jsontext.TooDeep as error:
        raise errors.BadRequest("the inventory report is nested too deeply") from error
    except ValueError:
        return body


def _names_at_once(body: bytes) -> list[str] | None:
    """The names that msgspec reads, if no reader could see others; None otherwise.

    Others may be seen where there are escapes or names like ``"Name"``, and a claim is to be cut.
    """
    if b"\\u" in body:
        return None
    try:
        names = [entry.name for entry in _entries.decode(body)]
    except (ValueError, RecursionError):
        return None
    if SYSTEM_ID in names or body.lower().count(b'"name"') != len(names):
        return None
    return names


def _walk(body: bytes, system_id: str, defaults: Sequence[InventoryAttribute]) -> bytes:
    # The server may read past bytes that are no UTF-8, and leaves alone what follows the list
    # (Go's json.Decoder does both); all that comes out again as it went in.
    text = body.decode(errors="surrogateescape")
    begin, entries = jsontext.elements(text, whole=False)
    names: list[str] = []
    kept: list[str] = []
    gap = begin
    cut = False
    for entry in entries:
        own = _names(entry.value)
        if own is None:
            return body
        if SYSTEM_ID not in own:
            # The first one left comes without the comma that was before it.
            kept.append(text[gap if kept or not cut else entry.start : entry.end])
            names += own
        else:
            cut = True
        gap = entry.end
    added = _added(names, system_id, defaults).decode()
    changed = "".join((text[:begin], *kept, added, text[gap:]))
    return changed.encode(errors="surrogateescape")


def _names(entry: jsontext.type_of_json) -> list[str] | None:
    """All names that some reader takes for the attribute's; None: it is no attribute."""
    if type(entry) is not tuple:
        return None
    found: list[str] = []
    has_value = False
    for key, value in entry:
        name = jsontext.folded(key)
        if name == "name":
            found.append(value)
        elif name == "value":
            has_value = True
    if not found or not has_value or not all(type(name) is str for name in found):
        return None
    return found


def _added(names: list[str], system_id: str, defaults: Iterable[InventoryAttribute]) -> bytes:
    """The gateway's attributes as they follow the device's `names`."""
    known = {SYSTEM_ID, *names}
    added = [InventoryAttribute(SYSTEM_ID, system_id)]
    added += (each for each in defaults if each.name not in known)
    text = msgspec.json.encode(added)[1:-1]
    return b"," + text if names else text
