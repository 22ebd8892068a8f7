"""Room for a newcomer: counted and made under the directory lock, before its first byte.

Whoever holds the lock sees every promise that the other fillers have made (the declared length in
the meta file of each locked partial), so that concurrent reservations never overcommit. Waits for
the disk and for the lock; runs in a thread.
"""

import fcntl
import os

from mender_gateway.cache.disk import BUSY, Disk
from mender_gateway.cache.errors import NoRoom, PartialLost
from mender_gateway.cache.eviction import (
    Candidate,
    Filling,
    Limits,
    Stock,
    choose,
    default_floor,
    hopeless,
    shortfall,
)
from mender_gateway.cache.files import data_files, list_directory, read_file
from mender_gateway.cache.layout import Layout, decode_meta
from mender_gateway.cache.locks import EXCLUSIVE, SHARED, directory_lock, try_lock
from mender_gateway.cache.origin import Attributes
from mender_gateway.cache.partial import Partial
from mender_gateway.cache.settings import CacheSettings
from mender_gateway.cache.trash import throw_away

_ROUNDS = 20


def reserve(
    disk: Disk, layout: Layout, partial: Partial, attributes: Attributes, settings: CacheSettings
) -> tuple[Candidate, ...]:
    """Declares the partial's length after making room for it; returns what was evicted.

    Raises NoRoom, having evicted nothing, when room cannot be made; LockBusy when the directory
    lock is not to be had; PartialLost when the directory is removed meanwhile.
    """
    try:
        with partial.using, directory_lock(disk, layout.lock, settings.lock_patience):
            written = partial.prepare(attributes, settings.chunk)
            newcomer = Filling(attributes.length, written)
            evicted = _make_room(disk, layout, partial.object_id, newcomer, settings)
            partial.declare()
            return evicted
    except FileNotFoundError as error:
        raise PartialLost(f"{partial.path} was removed: {error}") from error


def _make_room(
    disk: Disk, layout: Layout, object_id: str, newcomer: Filling, settings: CacheSettings
) -> tuple[Candidate, ...]:
    pinned: set[Candidate] = set()
    for _ in range(_ROUNDS):
        stock, limits = survey(disk, layout, settings, newcomer=object_id)
        missing = shortfall(stock, newcomer, limits)
        victims = choose(stock.candidates, missing, pinned)
        if victims is None:
            raise NoRoom(
                f"no room for {newcomer.declared} bytes: {missing} would have to be evicted; "
                f"{stock.free} are free, {limits.min_free} must stay free, {stock.reserved} are "
                f"promised, {stock.held} are held"
                + (f" of at most {limits.max_size}" if limits.max_size is not None else ""),
                hopeless=hopeless(stock, newcomer, limits),
            )
        with _Locked(disk, layout) as locked:
            busy = {victim for victim in victims if not locked.take(victim)}
            if not busy:
                for victim in victims:
                    throw_away(disk, layout, _path(layout, victim), victim.object_id)
                return victims
        pinned |= busy
    raise NoRoom("what could be evicted is being served", hopeless=False)


class _Locked:
    """The locks on candidates that are about to be removed."""

    def __init__(self, disk: Disk, layout: Layout) -> None:
        self._disk = disk
        self._layout = layout
        self._fds: list[int] = []

    def __enter__(self) -> "_Locked":
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            self._disk.close(fd)

    def take(self, candidate: Candidate) -> bool:
        """Locks all that could be in use; False when something is."""
        path = _path(self._layout, candidate)
        names = ["data"]
        if candidate.kind == "partial":
            names = ["fill.lock", *data_files(self._disk, path)]
        for name in names:
            try:
                fd = try_lock(self._disk, f"{path}/{name}", EXCLUSIVE)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if fd is None:
                return False
            self._fds.append(fd)
        return True


def _path(layout: Layout, candidate: Candidate) -> str:
    if candidate.kind == "partial":
        return layout.partial(candidate.object_id)
    return layout.object(candidate.object_id)


def survey(
    disk: Disk, layout: Layout, settings: CacheSettings, *, newcomer: str | None = None
) -> tuple[Stock, Limits]:
    """What the directory holds now; `newcomer`'s own partial is left out.

    Others write and commit meanwhile. So what they have written is looked at first, the finished
    objects next and the free space last: a byte may be counted twice, and never not at all.
    """
    candidates: list[Candidate] = []
    fillings: list[Filling] = []
    for object_id in list_directory(disk, layout.partials):
        if object_id == newcomer:
            continue
        match _partial(disk, layout, object_id):
            case Candidate() as candidate:
                candidates.append(candidate)
            case Filling() as filling:
                fillings.append(filling)
    for object_id in list_directory(disk, layout.objects):
        found = _object(disk, layout, object_id)
        if found is not None:
            candidates.append(found)
    system = disk.statvfs(layout.base)
    floor = settings.min_free_space
    if floor is None:
        floor = default_floor(system.f_blocks * system.f_frsize)
    stock = Stock(system.f_bavail * system.f_frsize, tuple(candidates), tuple(fillings))
    return stock, Limits(settings.max_size, floor)


def _object(disk: Disk, layout: Layout, object_id: str) -> Candidate | None:
    try:
        data = disk.stat(f"{layout.object(object_id)}/data")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Candidate("object", object_id, data.st_blocks * 512, data.st_mtime)


def _partial(disk: Disk, layout: Layout, object_id: str) -> Candidate | Filling | None:
    path = layout.partial(object_id)
    size, used = 0, 0.0
    for name in data_files(disk, path):
        try:
            data = disk.stat(f"{path}/{name}")
        except FileNotFoundError:
            continue
        size, used = size + data.st_blocks * 512, max(used, data.st_mtime)
    if _is_locked(disk, f"{path}/fill.lock"):
        raw = read_file(disk, f"{path}/meta")
        meta = decode_meta(raw) if raw is not None else None
        return Filling(meta.length if meta is not None else 0, size)
    return Candidate("partial", object_id, size, used) if size else None


def _is_locked(disk: Disk, path: str) -> bool:
    try:
        fd = disk.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        disk.flock(fd, SHARED | fcntl.LOCK_NB)
    except BUSY:
        return True
    finally:
        disk.close(fd)
    return False
