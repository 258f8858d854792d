"""The order of shards in windows: a permutation, computed entry by entry, of memory that grows with the shards."""

from itertools import combinations

import pytest
import torch

from pochade.data.windows import Windows

SIZES = (5, 3, 8, 1, 7, 4, 6)


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    windows = Windows(SIZES, 2)
    total = sum(SIZES)
    assert (len(windows), windows.count, windows.shards) == (total, 4, 2)
    epochs = [windows.order(3, torch.arange(total) + epoch * total).tolist() for epoch in range(4)]
    assert all(sorted(epoch) == list(range(total)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert windows.order(4, torch.arange(total)).tolist() != epochs[0]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
def test_a_window_is_read_before_the_next_one(most: int) -> None:
    """Of the shards that ``ahead`` names, and it names no more than two windows."""
    windows = Windows(SIZES, most)
    total = sum(SIZES)
    order = windows.order(0, torch.arange(2 * total))
    shards = (torch.searchsorted(windows.starts, order, right=True) - 1).tolist()
    for position, shard in enumerate(shards):
        ahead = windows.ahead(0, position)
        assert shard in ahead[: windows.shards]
        assert len(ahead) == len(set(ahead)) <= 2 * min(most, len(SIZES))
        following = shards[position + 1] if position + 1 < len(shards) else shard
        assert following in ahead
    runs = [a for a, b in zip(shards, [-1, *shards], strict=False) if a != b]
    if most == 1:
        assert len(runs) == 2 * len(SIZES)
    else:
        assert len(runs) > 3 * len(SIZES)  # the pictures of several shards are mixed


@pytest.mark.parametrize("most", [1, 2, 3, 6, 7, 100])
def test_the_smallest_window_is_the_smallest_that_there_can_be(most: int) -> None:
    """One small shard makes one window smaller, by what it lacks."""
    windows = Windows(SIZES, most)
    fewest = int(windows.bounds.diff().min())
    assert windows.smallest == min(sum(SIZES[shard] for shard in some) for some in combinations(range(7), fewest))
    assert Windows((12, 12, 12, 12, 12, 1), 6).smallest == 61


def test_a_batch_of_many_epochs_has_each_picture_of_each() -> None:
    windows = Windows(SIZES, 100)
    total = sum(SIZES)
    found = windows.order(0, torch.arange(5 * total))
    assert found.sort().values.tolist() == sorted(5 * [*range(total)])


def test_an_entry_is_the_same_alone_and_in_any_batch() -> None:
    windows = Windows(SIZES, 3)
    positions = torch.tensor([0, 33, 34, 35, 70, 12, 101, 5])
    whole = windows.order(9, positions)
    alone = [int(Windows(SIZES, 3).order(9, position[None])) for position in positions]
    assert whole.tolist() == alone
    halves = torch.stack([windows.order(9, positions[0::2]), windows.order(9, positions[1::2])], 1).flatten()
    assert halves.tolist() == whole.tolist()


def test_within_a_window_every_order_is_as_likely() -> None:
    """The mean place of each picture of an epoch is the middle, over 400 seeds."""
    windows = Windows((2, 2, 2, 2), 2)
    places = torch.stack([windows.order(seed, torch.arange(8)).argsort() for seed in range(400)])
    assert (places.double().mean(0) - 3.5).abs().max() < 4 * (5.25 / 400) ** 0.5
    apart = (places[:, 0] // 4 != places[:, 1] // 4).double().mean()
    assert apart == 0  # of one shard, thus of one window


def test_a_billion_pictures_take_a_hundredth_of_a_byte_each() -> None:
    windows = Windows([10_000 + number % 7 for number in range(100_000)], 1000)
    total = len(windows)
    assert total > 10**9
    positions = torch.tensor([0, 1, total - 1, total, total + total // 2])
    found = windows.order(0, positions)
    assert len(found.unique()) == len(found)
    assert found.min() >= 0
    assert found.max() < total
    assert windows.order(0, positions[-1:]).tolist() == found[-1:].tolist()
    assert len(windows.ahead(0, total // 2)) == 2000
    assert len(windows.order(0, total + torch.arange(512)).unique()) == 512
    arrays = [windows.sizes, windows.starts, windows.bounds, *(a for pair in windows._epochs.values() for a in pair)]
    assert sum(array.nbytes for array in arrays) < 0.01 * total
