"""Batches depend on the seed and the position alone."""

from collections import Counter

import numpy as np
import pytest
import torch

from pochade.errors import PochadeError
from pochade.training.loader import Loader, collate, draw
from training.toy import ToyDataset, order


def batches(start: int, stop: int, **options) -> list[dict]:
    loader = Loader(ToyDataset(10), seed=3, batch_size=8, start=start, stop=stop, **options)
    try:
        return list(loader)
    finally:
        loader.close()


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    indices = order(10, seed=3, count=40)
    epochs = [indices[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert indices != order(10, seed=4, count=40)


def test_a_later_start_gives_the_same_batches() -> None:
    whole, tail = batches(0, 6), batches(4, 6)
    for a, b in zip(whole[4:], tail, strict=True):
        assert a["name"] == b["name"]
        assert torch.equal(a["x"], b["x"])
        assert torch.equal(a["seed"], b["seed"])


@pytest.mark.parametrize("world_size, accumulate", [(2, 1), (4, 1), (1, 4), (2, 2), (4, 2)])
def test_the_samples_of_a_step_do_not_depend_on_who_computes_them(world_size: int, accumulate: int) -> None:
    whole = batches(0, 4)
    shares = [batches(0, 4, rank=r, world_size=world_size, accumulate=accumulate) for r in range(world_size)]
    for step, batch in enumerate(whole):
        parts = [s[step * accumulate + a] for s in shares for a in range(accumulate)]
        assert len({len(p["name"]) for p in parts}) == 1
        rows = {int(s): (n, x.tolist()) for p in parts for s, n, x in zip(p["seed"], p["name"], p["x"], strict=True)}
        expected = zip(batch["seed"], batch["name"], batch["x"], strict=True)
        assert rows == {int(s): (n, x.tolist()) for s, n, x in expected}


def test_augmentation_differs_between_epochs_and_noise_seeds_are_distinct() -> None:
    drawn = [draw(ToyDataset(5), 0, p) for p in range(200)]
    assert len({d["seed"] for d in drawn}) == 200
    assert min(d["seed"] for d in drawn) >= 0
    first = [d["x"] for d in drawn if d["index"] == 2][:2]
    assert not torch.equal(*first)
    assert Counter(d["index"] for d in drawn) == dict.fromkeys(range(5), 40)


def test_collate_by_kind() -> None:
    rows = [{"a": np.ones((2, 3), np.float32) * i, "b": i, "c": i / 2, "d": bool(i), "e": str(i)} for i in range(2)]
    batch = collate(rows)
    assert batch["a"].shape == (2, 2, 3)
    assert [batch[k].dtype for k in "abcd"] == [torch.float32, torch.int64, torch.float32, torch.bool]
    assert batch["e"] == ["0", "1"]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"a": 1}, {"b": 1}], "same entries"),
        ([{"a": torch.ones(2)}, {"a": torch.ones(3)}], r"'a'.*\(2,\), \(3,\)"),
        ([{"a": None}, {"a": None}], "NoneType"),
    ],
)
def test_collate_refuses(rows: list[dict], message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        collate(rows)


def test_an_error_in_the_dataset_reaches_the_loop() -> None:
    class Broken(ToyDataset):
        def sample(self, index: int, rng: np.random.Generator) -> dict:
            if index == 7:
                raise OSError("row 7 is gone")
            return super().sample(index, rng)

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
