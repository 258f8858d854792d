"""Batches depend on the seed and the position alone."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from pochade.errors import PochadeError
from pochade.training.loader import Loader, draw
from pochade.training.task import Batch
from training.toy import ToyDataset, order


def batches(start: int, stop: int, **options: Any) -> list[Batch]:
    loader = Loader(ToyDataset(10), seed=3, batch_size=8, start=start, stop=stop, **options)
    try:
        return list(loader)
    finally:
        loader.close()


def samples(batch: Batch) -> dict[int, tuple[str, list[float]]]:
    """Name and numbers of each sample, by its key."""
    rows = zip(batch["seed"].tolist(), batch["name"], batch["x"].tolist(), strict=True)
    return {key: (name, x) for key, name, x in rows}


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    indices = order(10, seed=3, count=40)
    epochs = [indices[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert indices != order(10, seed=4, count=40)


def test_a_later_start_gives_the_same_batches() -> None:
    whole, tail = batches(0, 6), batches(4, 6)
    assert [samples(batch) for batch in whole[4:]] == [samples(batch) for batch in tail]
    assert [batch["name"] for batch in whole[4:]] == [batch["name"] for batch in tail]


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (4, 1), (1, 4), (2, 2), (4, 2)])
def test_the_samples_of_a_step_do_not_depend_on_who_computes_them(world_size: int, accumulate: int) -> None:
    whole = batches(0, 4)
    shares = [batches(0, 4, rank=r, world_size=world_size, accumulate=accumulate) for r in range(world_size)]
    for step, batch in enumerate(whole):
        parts = [share[step * accumulate + a] for share in shares for a in range(accumulate)]
        assert {len(part["name"]) for part in parts} == {8 // world_size // accumulate}
        joined: dict[int, tuple[str, list[float]]] = {}
        for part in parts:
            joined |= samples(part)
        assert joined == samples(batch)


def test_what_is_random_differs_between_epochs_and_keys_are_distinct() -> None:
    batch = draw(ToyDataset(5), 0, range(200), 8)
    assert len(set(batch["seed"].tolist())) == 200
    assert int(batch["seed"].min()) >= 0
    assert Counter(batch["index"].tolist()) == dict.fromkeys(range(5), 40)
    assert len({tuple(x) for x in batch["x"][batch["index"] == 2].tolist()}) == 40


def test_tensors_come_on_the_device_and_strings_as_they_are() -> None:
    (batch,) = batches(0, 1, device=torch.device("meta"))
    assert {name: value.device.type for name, value in batch.items() if isinstance(value, Tensor)} == dict.fromkeys(
        ("x", "index", "seed"), "meta"
    )
    assert [type(name) for name in batch["name"]] == [str] * 8


def test_an_error_in_the_samples_reaches_the_loop() -> None:
    class Broken(ToyDataset):
        def batch(self, indices: Tensor, keys: Tensor) -> Batch:
            if 7 in indices:
                raise OSError("row 7 is gone")
            return super().batch(indices, keys)

    loader = Loader(Broken(10), seed=0, batch_size=2, start=0, stop=100)
    with pytest.raises(OSError, match="row 7"):
        list(loader)
    loader.close()


def test_closing_early_ends_the_thread_and_sizes_are_checked() -> None:
    loader = Loader(ToyDataset(10), seed=0, batch_size=2, start=0, stop=10**9)
    next(iter(loader))
    loader.close()
    assert not loader._thread.is_alive()
    with pytest.raises(PochadeError, match="empty"):
        Loader(ToyDataset(0), seed=0, batch_size=2, start=0, stop=1)
    with pytest.raises(PochadeError, match=r"batch_size: 6 .* 4 processes x 1"):
        Loader(ToyDataset(9), seed=0, batch_size=6, start=0, stop=1, world_size=4)
