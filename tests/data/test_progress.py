import itertools
import time

import pytest

from pochade.data.progress import ahead, each


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


def test_an_error_of_one_item_ends_the_work():
    results = ahead(lambda number: 1 // (number - 5), range(20))
    assert [number for number, _ in itertools.islice(results, 5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)
