"""The secret that signs local links: configured, or generated once and kept.

The generated one lies in the state directory, readable by us alone, put there by `link` so that
gateways starting at once agree on one. Which secret was in use is noted beside it: after a change
the links already handed out stay valid for `GRACE`.
"""

import contextlib
import os
import secrets
import time

import msgspec

GRACE = 25 * 3600.0
"""Seconds for which the previous secret still opens links: the longest link and an hour."""

_SIZE = 32


class _Used(msgspec.Struct):
    current: bytes
    previous: bytes | None = None
    changed: float = 0.0


def load(state_dir: str, configured: bytes | None) -> tuple[bytes, bytes | None]:
    """The secret in force and the previous one while it counts. Waits for the disk.

    Raises OSError when the state directory cannot be used.
    """
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    current = configured if configured is not None else _generated(f"{state_dir}/secret")
    path = f"{state_dir}/secret.used"
    try:
        with open(path, "rb") as file:
            used = msgspec.json.decode(file.read(), type=_Used)
    except (FileNotFoundError, msgspec.DecodeError):
        used = _Used(current)
        _write(path, msgspec.json.encode(used))
    if used.current != current:
        used = _Used(current, used.current, time.time())
        _write(path, msgspec.json.encode(used))
    counts = used.previous is not None and abs(time.time() - used.changed) < GRACE
    return current, used.previous if counts else None


def _generated(path: str) -> bytes:
    for _ in range(3):
        try:
            with open(path, "rb") as file:
                secret = file.read()
            if len(secret) == _SIZE:
                return secret
            os.unlink(path)  # torn by a power cut before it was ever used
        except FileNotFoundError:
            pass
        temporary = f"{path}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            _write(temporary, secrets.token_bytes(_SIZE), replace=False)
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    raise OSError(f"{path} cannot be created")


def _write(path: str, data: bytes, *, replace: bool = True) -> None:
    """Durably write a file that only we can read; with `replace` over an existing one."""
    # A name of our own, made new: what somebody has put in its place is never written through.
    target = f"{path}.new.{os.getpid()}.{secrets.token_hex(4)}" if replace else path
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        if replace:
            os.replace(target, path)
    except OSError:
        os.unlink(target)
        raise
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
