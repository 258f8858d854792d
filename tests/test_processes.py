"""How tests start processes: a test that fails, or runs out of its time, leaves none."""

import gc
import re
import time
import warnings

import psutil
import pytest

from processes import TESTS, python, started

FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_test_that_fails_ends_a_process_with_its_descendants_and_closes_its_pipes() -> None:
    pids: list[int] = []

    def fail() -> None:
        with started("-c", FAMILY) as process:
            assert process.stdout is not None
            pids.extend((process.pid, int(process.stdout.readline())))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    last = time.monotonic() + 60  # the system may take a moment
    while any(map(lives, pids)) and time.monotonic() < last:
        time.sleep(0.02)
    assert not any(map(lives, pids))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of what was left open
        gc.collect()


def test_a_process_that_does_not_end_fails_with_what_it_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processes.LONGEST", 1)
    code = "import sys, time; print('waiting for the other', file=sys.stderr, flush=True); time.sleep(600)"
    with pytest.raises(pytest.fail.Exception, match=r"not ended after 1 s: waiting for the other"):
        python("-S", "-c", code)


def test_the_environment_of_a_process() -> None:
    code = "import os; print(os.environ.get('OMP_NUM_THREADS'), os.environ.get('HOME'), os.environ['MINE'])"
    assert python("-S", "-c", code, HOME=None, MINE="x").stdout == "1 None x\n"


def test_processes_of_python_are_started_in_one_way() -> None:
    others = [path for path in TESTS.rglob("*.py") if path.name not in ("processes.py", "test_processes.py")]
    assert len(others) > 200
    wrong = re.compile(r"\bPopen\(|\[sys\.executable")
    assert [path.name for path in others if wrong.search(path.read_text(encoding="utf-8"))] == []
