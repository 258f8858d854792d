import itertools
import signal
import threading
import time

import pytest

from pochade.data import progress
from pochade.data.progress import ahead, each, progress_bar


def test_results_keep_their_order():
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(each(slow_first, range(600), "squaring", progress=False)) == [(i, i * i) for i in range(600)]
    assert list(ahead(slow_first, range(30))) == [(i, i * i) for i in range(30)]


def test_a_few_items_are_taken_in_advance_of_an_endless_stream():
    taken: list[int] = []

    def stream():
        for number in itertools.count(1):
            taken.append(number)
            yield number

    squares = ahead(lambda number: number * number, stream())
    assert [next(squares)[1] for _ in range(3)] == [1, 4, 9]
    squares.close()
    assert len(taken) < 1000


def test_an_interruption_does_not_wait_for_what_is_under_way():
    main, done = threading.main_thread().ident, threading.Event()
    assert main is not None

    def interrupting(number: int) -> int:
        if number:
            signal.pthread_kill(main, signal.SIGINT)
            done.wait(20)
        return number

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            list(ahead(interrupting, range(2)))
    finally:
        done.set()
        signal.signal(signal.SIGINT, before)


def test_an_error_of_one_item_ends_the_work():
    results = ahead(lambda number: 1 // (number - 5), range(20))
    assert [number for number, _ in itertools.islice(results, 5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_lines_tell_the_progress_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Of what takes long alone."""
    list(each(str, range(3), "reading", progress=True))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "SAID_EVERY", 0)
    list(each(str, range(2), "reading", progress=False))
    assert capsys.readouterr() == ("", "")
    list(each(str, range(2), "reading", progress=True))
    with progress_bar(True) as bar:
        bar.update(bar.add_task("encoding", total=5000), completed=1234)
        bar.advance(bar.add_task("writing", total=None))
    assert capsys.readouterr() == ("", "reading: 1 of 2\nreading: 2 of 2\nencoding: 1,234 of 5,000\nwriting: 1\n")


def test_the_state_of_others_is_said_meanwhile(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SAID_EVERY", 0.001)
    asked = threading.Semaphore(0)

    def state() -> str:
        asked.release()
        return "3 parts"

    with progress.said_meanwhile(state):
        for _ in range(2):
            assert asked.acquire(timeout=60)
    assert set(capsys.readouterr().err.splitlines()) == {"3 parts"}
    assert not [thread for thread in threading.enumerate() if thread.name == "pochade-progress"]
