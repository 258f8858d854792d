"""Who works on what: claims of the living hold, those of the dead do not."""

import os
import socket
from pathlib import Path

import pytest

from pochade.data.cache import claims
from pochade.data.cache.claims import holder, take
from processes import python


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
    path = tmp_path / "part.claim"
    code = "import os, sys; from pathlib import Path; from pochade.data.cache.claims import take\n"
    code += "take(Path(sys.argv[1])).__enter__(); os._exit(9)"
    assert python("-c", code, path).returncode == 9
    before = path.read_text()
    assert before.startswith(f"{socket.gethostname()} ")
    assert holder(path) is None
    claim = take(path)
    assert claim is not None
    with claim:
        assert path.read_text() != before
        assert holder(path) == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell when a process began")
def test_a_living_process_keeps_its_claim_without_a_sign_and_its_number_alone_is_not_enough(tmp_path: Path) -> None:
    """One that is suspended gives no sign; one that has the number of a dead one, as in a container, is another."""
    path = tmp_path / "part.claim"
    claim = take(path)
    assert claim is not None
    with claim:
        os.utime(path, (1, 1))
        assert take(path) is None
        host, number, since, space = path.read_text().split()
        path.write_text(f"{host} {number} {int(since) - 1} {space}")
        assert holder(path) is None


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
