"""The files of the secret that signs links."""

import os
import stat
from pathlib import Path

from mender_gateway.artifacts.secret import load


def test_the_secret_and_its_note_are_for_us_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first, previous = load(str(state), None)
    assert previous is None
    assert load(str(state), None) == (first, None)
    assert load(str(state), b"x" * 32) == (b"x" * 32, first)
    assert sorted(os.listdir(state)) == ["secret", "secret.used"]
    for path in state.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_written_through_a_link_that_somebody_has_prepared(tmp_path: Path) -> None:
    state, victim = tmp_path / "state", tmp_path / "victim"
    state.mkdir()
    victim.write_text("untouched")
    for name in ("secret", f"secret.used.new.{os.getpid()}", f"secret.new.{os.getpid()}"):
        (state / name).symlink_to(victim)
    (state / "secret").unlink()
    load(str(state), None)
    load(str(state), b"x" * 32)
    assert victim.read_text() == "untouched"
    assert not (state / "secret.used").is_symlink()


def test_a_disk_without_room_leaves_no_litter(tmp_path: Path) -> None:
    state = tmp_path / "state"
    load(str(state), None)
    (state / "secret.used").unlink()
    (state / "secret.used").mkdir()  # cannot be replaced by a file
    try:
        load(str(state), None)
    except OSError:
        pass
    assert sorted(os.listdir(state)) == ["secret", "secret.used"]
