"""What the cache is told, and what it tells: settings, figures, events. Frozen values."""

from dataclasses import dataclass
from enum import StrEnum

from mender_gateway.cache.layout import CHUNK


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Seconds and bytes."""

    max_size: int | None = None
    """Bytes that the cache may hold; None: no limit."""
    min_free_space: int | None = None
    """Bytes that the file system keeps free; None: the larger of 64 MiB and 2 % of it."""
    give_up: float = 900.0
    """A fill that gets no byte for so long ends; its bytes stay for the next one."""
    silence: float = 60.0
    """A source that yields nothing for so long counts as broken."""
    open_patience: float = 60.0
    """How long a first, temporarily failing opening is tried again while devices wait for heads."""
    stopped_elsewhere: float = 60.0
    """Another process's mark that shows no life for so long is followed no more."""
    poll: float = 0.075
    """Between two looks at another process's mark."""
    beat: float = 10.0
    """Between two signs of life of a filler that gets no bytes."""
    linger: float = 5.0
    """An open entry without use is let go after so long."""
    trouble_pause: float = 1.0
    """After disk trouble nothing new is stored for so long, …"""
    longest_trouble_pause: float = 30.0
    """… and twice as long each time that it goes on, up to this."""
    room_patience: float = 10.0
    """How long an object waits for room that others are using, before it goes around the cache."""
    no_room_pause: float = 10.0
    """An object for which there was no room is not tried again for so long."""
    disk_patience: float = 60.0
    """A disk call that has not returned by then counts as disk trouble."""
    look_patience: float = 15.0
    """The same for looking an object up, while a device waits."""
    lock_patience: float = 10.0
    """How long the directory lock is waited for."""
    touch_every: float = 60.0
    """How often serving an object is written down (its data file's mtime)."""
    check_every: float = 5.0
    """How often an entry in use is compared with the directory."""
    note_age: float = 48 * 3600.0
    """A note whose object nobody fetched is junk after so long."""
    sweep_every: float = 3600.0
    """Between two searches for junk, made when there is something to fill."""
    count_every: float = 10.0
    """A count of the directory for figures is good for at least so long."""
    count_patience: float = 2.0
    """How long who wants figures waits for a count."""
    open_entries: int = 512
    chunk: int = CHUNK


@dataclass(frozen=True, slots=True)
class Figures:
    """A snapshot; the directory's part is as old as its last count."""

    fills: int = 0
    """Fills in flight in this process."""
    open_entries: int = 0
    hits: int = 0
    misses: int = 0
    joins: int = 0
    bypasses: int = 0
    evictions: int = 0
    commits: int = 0
    rejections: int = 0
    origin_bytes: int = 0
    """Received from origins by this process's fills, repeated bytes included."""
    objects: int = 0
    stored_bytes: int = 0
    partials: int = 0
    partial_bytes: int = 0
    reserved_bytes: int = 0
    free_bytes: int = 0
    usable: bool = True


class Kind(StrEnum):
    TROUBLE = "trouble"
    """The disk failed; devices are served uncached. Once per trouble."""
    HEALED = "healed"
    NO_ROOM = "no room"
    FILL_STARTED = "fill started"
    TAKEN_OVER = "taken over"
    """A fill goes on where another, now dead, stopped."""
    FILL_BROKE = "fill broke"
    """The origin's download broke; it is tried again."""
    GAVE_UP = "gave up"
    CHANGED = "changed"
    """The origin has another object now; readers of the old one are aborted."""
    REJECTED = "rejected"
    """Verification failed; nothing is kept."""
    LOST = "lost"
    """The partial directory was removed or replaced while it was filled; served, not kept."""
    COMMITTED = "committed"
    EVICTED = "evicted"
    DAMAGED = "damaged"
    """A stored object was not what its metadata says; it was removed."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something for the log."""

    kind: Kind
    text: str
    object_id: str | None = None
