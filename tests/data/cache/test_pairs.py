"""Pairs as latents on the disk: the round trip, several draws, an interrupted build, and pictures among them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pochade.data.cache import pairs as module
from pochade.data.cache.latents import build_cache
from pochade.data.cache.pairs import CachedPairs, PairsAndPictures, build_pairs, fingerprint_pairs
from pochade.data.sources.pairs.pair import Pair, with_hole
from pochade.errors import PochadeError
from pochade.types import TASKS, TextEncoding

SIZE = 8
DIM = 3


class Toys:
    """Pairs of two colours: even ones have a hole, odd ones an instruction as long as the generator says."""

    def __init__(self, count: int = 5) -> None:
        self.count = count
        self.asked = 0

    def __len__(self) -> int:
        return self.count

    def pair(self, index: int, rng: np.random.Generator | None = None) -> Pair:
        word = 0 if rng is None else int(rng.integers(4))
        target = Image.new("RGB", (SIZE, SIZE), (40 * index, 60 * word, 0))
        if index % 2:
            return Pair("edit", target.rotate(90), target, None, " ".join(["green"] * (word + 1)), str(index), "g")
        mask = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(mask).point((index, 5), 255)
        return Pair("inpaint", with_hole(target, mask), target, mask, f"number {index}", str(index), "g")

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        self.asked += 1
        return self.pair(index, rng).sample()


def encode_images(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images, 4)


def encode_text(texts: Sequence[str]) -> TextEncoding:
    words = [text.split() for text in texts]
    longest = max(len(row) for row in words)
    tokens = torch.zeros(len(texts), longest, DIM)
    for i, row in enumerate(words):
        tokens[i, : len(row)] = torch.tensor([[len(word), word == "green", 1] for word in row])
    mask = torch.arange(longest) < torch.tensor([len(row) for row in words])[:, None]
    return TextEncoding(tokens, mask, tokens.sum(1))


def build(folder: Path, pairs: Toys | None = None, draws: int = 3) -> CachedPairs:
    return build_pairs(Toys() if pairs is None else pairs, draws, encode_images, encode_text, folder, progress=False)


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    cached, pairs = build(tmp_path), Toys()
    assert (len(cached), cached.draws) == (5, 3)
    assert cached.tasks == {TASKS.index("edit"), TASKS.index("inpaint")}
    for item in range(15):
        draw, index = divmod(item, 5)
        sample = pairs.sample(index, np.random.default_rng([index, draw]))
        found = cached.item(item)
        assert cached.instruction(item) == sample["instruction"]
        assert found["task"] == sample["task"]
        for name, picture in (("latents", "target"), ("source", "source")):
            torch.testing.assert_close(found[name], encode_images(sample[picture][None])[0])
        # One masked pixel is a masked cell.
        cells = torch.zeros(1, 2, 2)
        if sample["task"] == TASKS.index("inpaint"):
            cells[0, 1, index // 4] = 1
        assert torch.equal(found["source_mask"], cells)
        expected = encode_text([sample["instruction"]])
        count = int(expected.mask.sum())
        assert int(found["mask"].sum()) == count
        assert torch.equal(found["tokens"][:count], expected.tokens[0])
        assert not found["tokens"][count:].any()
        assert torch.equal(found["pooled"], expected.pooled[0])
    drawn = {cached.sample(1, np.random.default_rng(seed))["name"] for seed in range(30)}
    assert drawn == {"1", "6", "11"}


def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 4)
    monkeypatch.setattr(module, "BATCH", 3)
    whole = build(tmp_path / "whole")

    class Broken(Toys):
        def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
            if self.asked == 9:
                raise KeyboardInterrupt
            return super().sample(index, rng)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "parts", Broken())
    with pytest.raises(PochadeError, match="holds no finished cache of pairs"):
        CachedPairs(tmp_path / "parts")
    assert len(list((tmp_path / "parts").iterdir())) == 2
    rest = Toys()
    again = build(tmp_path / "parts", rest)
    assert rest.asked == 15 - 8
    for item in range(15):
        one, two = whole.item(item), again.item(item)
        assert all(torch.equal(one[k], two[k]) for k in one if isinstance(one[k], Tensor))
        assert whole.instruction(item) == again.instruction(item)
    (tmp_path / "parts" / "part-00001.safetensors").write_bytes(b"not tensors")
    with pytest.raises(PochadeError, match=r"part-00001.safetensors: damaged .*delete this file"):
        CachedPairs(tmp_path / "parts")


def test_caches_are_told_apart() -> None:
    names = [fingerprint_pairs(Toys(), "a"), fingerprint_pairs(Toys(), "b"), fingerprint_pairs(Toys(4), "a")]
    assert len({*names}) == 3
    assert fingerprint_pairs(Toys(), "a") == names[0]


def test_what_cannot_be_cached(tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match="pairs: there are none"):
        build(tmp_path, Toys(0))
    with pytest.raises(PochadeError, match="draws: 0 given, allowed is 1 and more"):
        build(tmp_path, draws=0)
    assert not list(tmp_path.iterdir())


class Pictures:
    def __len__(self) -> int:
        return 3

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", (SIZE, SIZE), (0, 0, 80 * index))

    def captions(self, index: int) -> list[str]:
        return [f"a picture in blue with the number {index}"]

    def label(self, index: int) -> int:
        return -1

    def group(self, index: int) -> int:
        return index


def test_pictures_among_the_pairs(tmp_path: Path) -> None:
    cached = build(tmp_path / "pairs")
    pictures = build_cache(Pictures(), encode_images, encode_text, tmp_path / "pictures", progress=False)
    mixed = PairsAndPictures(cached, pictures, 0.4)
    assert len(mixed) == len(cached)
    samples = [mixed.sample(i % 5, np.random.default_rng(i)) for i in range(400)]
    assert len({frozenset(sample) for sample in samples}) == 1
    assert {(len(sample["mask"]), len(sample["tokens"])) for sample in samples} == {(8, 8)}
    plain = [sample for sample in samples if sample["task"] == -1]
    assert 0.3 < len(plain) / len(samples) < 0.5
    assert not any(sample["source"].any() or sample["source_mask"].any() for sample in plain)
    assert all(int(sample["mask"].sum()) == 8 for sample in plain)
    assert len({sample["name"] for sample in plain}) == 3
    again = mixed.sample(2, np.random.default_rng(7))
    assert torch.equal(again["latents"], samples[7]["latents"])
