"""Who works on what: claims of the living hold, those of the dead do not."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pochade.data.cache import claims
from pochade.data.cache.claims import take


def test_a_claim_is_held_until_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "part.claim"
    claim = take(path)
    assert claim is not None
    with claim:
        assert take(path) is None
        assert [p.name for p in tmp_path.iterdir()] == ["part.claim"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), take(path) or pytest.fail("it is free"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_claim_of_a_process_that_has_ended_is_taken_over(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    path = tmp_path / "part.claim"
    path.write_text(f"{socket.gethostname()} {int(ended.stdout)}")
    claim = take(path)
    assert claim is not None
    with claim:
        assert path.read_text() == f"{socket.gethostname()} {os.getpid()}"


@pytest.mark.parametrize("owner", ["another-machine 1", f"{socket.gethostname()} {os.getppid()}", ""])
def test_a_claim_without_a_sign_of_life_is_taken_over(tmp_path: Path, owner: str) -> None:
    """Of another machine, of a number that another process has now, and of one that died while it wrote its name."""
    path = tmp_path / "part.claim"
    path.write_text(owner)
    assert take(path) is None
    before = path.stat().st_mtime - claims.STALE_AFTER - 1
    os.utime(path, (before, before))
    claim = take(path)
    assert claim is not None
    with claim:
        assert take(path) is None


def test_a_held_claim_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT", 0.001)
    path = tmp_path / "part.claim"
    claim = take(path)
    assert claim is not None
    os.utime(path, (1, 1))
    with claim:
        while path.stat().st_mtime == 1:
            pass
