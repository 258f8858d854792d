"""Pairs as latents on the disk: the round trip, several draws, what is drawn again, and pictures among them."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from data.cache.toys import Counting, encode_text
from data.memory import Flat, MemoryDataset
from pochade.data.cache.latents import LatentEncoders, cache_latents
from pochade.data.cache.pairs import CachedPairs, PairsAndPictures, cache_pairs
from pochade.data.samples import digest
from pochade.data.sources.pairs.pair import Pair, with_hole
from pochade.errors import PochadeError
from pochade.nn.keyed_random import sample_keys
from pochade.types import TASKS

SIZE = 8


class Toys:
    """Pairs of two colours: even ones have a hole, odd ones an instruction whose length the generator draws."""

    def __init__(self, numbers: range = range(5)) -> None:
        self.numbers = numbers
        self.calls: list[int] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def identity(self, index: int) -> str:
        return sha256(str(self.numbers[index]).encode()).hexdigest()

    def pair(self, index: int, rng: np.random.Generator | None = None) -> Pair:
        number, word = self.numbers[index], 0 if rng is None else int(rng.integers(4))
        target = Image.new("RGB", (SIZE, SIZE), (40 * number, 60 * word, 0))
        if number % 2:
            return Pair("edit", target.rotate(90), target, None, " ".join(["green"] * (word + 1)), str(number), "g")
        mask = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(mask).point((number, 5), 255)
        return Pair("inpaint", with_hole(target, mask), target, mask, f"number {number}", str(number), "g")

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        self.calls.append(self.numbers[index])
        return self.pair(index, rng).sample()


def encode_images(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images, 4)


def encoders(counting: Counting | None = None) -> LatentEncoders:
    text = (counting or Counting()).encoders
    return LatentEncoders(encode_images, "pool", text.encode_text, text.text_identity)


def cached(folder: Path, pairs: Toys | None = None, draws: int = 3, counting: Counting | None = None) -> CachedPairs:
    toys: Any = Toys() if pairs is None else pairs
    return cache_pairs(toys, draws, encoders(counting), folder, progress=False)


def drawn(pairs: Toys, pair: int, draw: int) -> dict[str, Any]:
    """What a pair and the number of a draw give, whatever other pairs there are."""
    seed = int.from_bytes(digest(pairs.identity(pair), str(draw)), "little")
    return pairs.sample(pair, np.random.default_rng(seed))


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    data, pairs = cached(tmp_path), Toys()
    assert (len(data), data.pairs, data.draws) == (5, 5, 3)
    assert data.tasks == {TASKS.index("edit"), TASKS.index("inpaint")}
    batch: dict[str, Any] = data.of_rows(torch.arange(15))
    instructions = data.instructions(torch.arange(15))
    for i in range(15):
        draw, pair = divmod(i, 5)
        sample = drawn(pairs, pair, draw)
        assert instructions[i] == sample["instruction"]
        assert batch["name"][i] == str(pair)
        assert int(batch["task"][i]) == sample["task"]
        for name, picture in (("latents", "target"), ("source", "source")):
            torch.testing.assert_close(batch[name][i], encode_images(sample[picture][None])[0])
        # One masked pixel is a masked cell.
        cells = torch.zeros(1, 2, 2)
        if sample["task"] == TASKS.index("inpaint"):
            cells[0, 1, pair // 4] = 1
        assert torch.equal(batch["source_mask"][i], cells)
        expected = encode_text([sample["instruction"]])
        count = expected.tokens.shape[1]
        assert int(batch["mask"][i].sum()) == count
        assert torch.equal(batch["tokens"][i, :count], expected.tokens[0].half().float())
        assert not batch["tokens"][i, count:].any()
        assert torch.equal(batch["pooled"][i], expected.pooled[0].half().float())
    assert len({instructions[i] for i in (1, 6, 11, 3, 8, 13)}) > 2


def test_every_draw_of_a_pair_is_shown_evenly(tmp_path: Path) -> None:
    data, keys = cached(tmp_path), sample_keys(0, torch.arange(3000))
    batch: dict[str, Any] = data.batch(torch.full((3000,), 2), keys)
    found = batch["latents"][:, 1, 0, 0]
    draws: dict[str, Any] = data.of_rows(torch.tensor([2, 7, 12]))
    every = draws["latents"][:, 1, 0, 0]
    for value in every.unique():
        fraction = float((every == value).double().mean())
        assert abs(float((found == value).double().mean()) - fraction) < 0.04
    assert torch.isin(found, every).all()


def test_only_what_changed_is_drawn_again(tmp_path: Path) -> None:
    cached(tmp_path)
    for pairs, expected in ((Toys(), []), (Toys(range(1, 6)), [5] * 3), (Toys(range(5)[::-1]), [])):
        data = cached(tmp_path, pairs)
        assert pairs.calls == expected
        for row in (0, 7, 14):
            sample = drawn(Toys(pairs.numbers), row % 5, row // 5)
            assert data.instructions(torch.tensor([row])) == [sample["instruction"]]
    more, counting = Toys(), Counting()
    cached(tmp_path, more, draws=4, counting=counting)
    assert sorted(more.calls) == [0, 1, 2, 3, 4]


def test_a_damaged_part_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = cached(tmp_path)
    path = data.cache.folder / "part-00000.safetensors"
    path.write_bytes(b"not tensors")
    pairs = Toys()
    again = cached(tmp_path, pairs)
    assert len(pairs.calls) == 15
    assert "part-00000.safetensors: damaged (" in capsys.readouterr().err
    assert again.instructions(torch.arange(15)) == cached(tmp_path / "b").instructions(torch.arange(15))


def test_what_cannot_be_cached(tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match="pairs: there are none"):
        cached(tmp_path, Toys(range(0)))
    with pytest.raises(PochadeError, match="draws: 0 given, allowed is 1 and more"):
        cached(tmp_path, draws=0)
    with pytest.raises(PochadeError, match="encoders: no text encoder given"):
        cached(tmp_path, counting=Counting(text=False))
    assert not list(tmp_path.iterdir())


def test_pictures_among_the_pairs(tmp_path: Path) -> None:
    pairs = cached(tmp_path)
    flat = [Flat((0, 0, 80 * i), (f"a picture in blue with the number {i}",), name=f"picture {i}") for i in range(3)]
    pictures = cache_latents(MemoryDataset(flat), SIZE, encoders(), tmp_path, progress=False)
    mixed = PairsAndPictures(pairs, pictures, 0.4)
    assert len(mixed) == len(pairs)
    indices, keys = torch.arange(1000) % 5, sample_keys(2, torch.arange(1000))
    batch: dict[str, Any] = mixed.batch(indices, keys)
    plain = batch["task"] == -1
    assert abs(float(plain.double().mean()) - 0.4) < 0.06
    assert not batch["source"][plain].any()
    assert not batch["source_mask"][plain].any()
    assert (batch["mask"].sum(1)[plain] == 8).all()
    names = torch.tensor([name.startswith("picture") for name in batch["name"]])
    assert torch.equal(names, plain)
    assert len({name for name, is_plain in zip(batch["name"], plain.tolist(), strict=True) if is_plain}) == 3
    assert [name for name, is_plain in zip(batch["name"], plain.tolist(), strict=True) if not is_plain] == [
        str(index) for index in indices[~plain].tolist()
    ]
    alone: dict[str, Any] = pairs.batch(indices[~plain], keys[~plain])
    assert torch.equal(batch["latents"][~plain], alone["latents"])
    for i in (0, 77, 500):
        one: dict[str, Any] = mixed.batch(indices[i : i + 1], keys[i : i + 1])
        words = one["tokens"].shape[1]
        assert torch.equal(one["latents"][0], batch["latents"][i])
        assert torch.equal(one["tokens"][0], batch["tokens"][i, :words])
        assert not batch["mask"][i, words:].any()
    for fraction, expected in ((0.0, 0), (0.999, 5)):
        few: dict[str, Any] = PairsAndPictures(pairs, pictures, fraction).batch(torch.arange(5), keys[:5])
        assert int((few["task"] == -1).sum()) == expected
