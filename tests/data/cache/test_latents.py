import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pochade.data.cache.latents as module
from pochade.data.cache.latents import CachedLatents, build_cache, fingerprint
from pochade.data.dataset import Dataset
from pochade.errors import PochadeError
from pochade.images.decode import to_tensor
from pochade.types import TextEncoding

COUNT = 11


class Pictures:
    """Eleven pictures in groups of 1, 2 and 3 variants; picture i has 1 + i % 3 captions of different lengths."""

    def __init__(self, count: int = COUNT, labelled: bool = False, shade: int = 0) -> None:
        self.count, self.labelled, self.shade = count, labelled, shade

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", (16, 8), (20 * index, 255 - 20 * index, self.shade))

    def captions(self, index: int) -> list[str]:
        return [] if self.labelled else [" ".join(["word"] * (k + 1)) + f" {index}" for k in range(1 + index % 3)]

    def label(self, index: int) -> int:
        return index % 4 if self.labelled else -1

    def group(self, index: int) -> int:
        return (0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 6)[index]


GROUPS = [[0], [1, 2], [3, 4, 5], [6], [7, 8], [9], [10]]


def encode_images(images: Tensor) -> Tensor:
    """[B, 3, 8, 16] -> [B, 2, 1, 2]: means of halves, of two channels."""
    return images[:, :2].unflatten(-1, (2, 8)).mean((2, 4))[:, :, None] * 3


def encode_text(captions: list[str]) -> TextEncoding:
    """A token for each word, its vector made from the word and the place; padding that must not be stored."""
    lengths = [len(c.split()) for c in captions]
    longest = max(lengths)
    tokens = torch.zeros(len(captions), longest, 3)
    for row, caption in enumerate(captions):
        for place, word in enumerate(caption.split()):
            value = float(word) if word.isdigit() else 0.5
            tokens[row, place] = torch.tensor([value + 0.1, place, 1 / 3])
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    return TextEncoding(tokens, mask, tokens.sum(1) / 7)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 4)
    monkeypatch.setattr(module, "BATCH", 3)


def build(folder: Path, pictures: Pictures | None = None, text: bool = True) -> CachedLatents:
    pictures = Pictures() if pictures is None else pictures
    return build_cache(pictures, encode_images, encode_text if text else None, folder, progress=False)


def samples(data: CachedLatents, index: int, count: int = 40) -> list[dict]:
    return [data.sample(index, np.random.default_rng(seed)) for seed in range(count)]


def test_latents_and_text_are_those_of_encoding_directly(tmp_path: Path):
    data, pictures = build(tmp_path), Pictures()
    assert isinstance(data, Dataset)
    assert len(data) == len(GROUPS)
    assert data.latent_shape == (2, 1, 2)
    for g, variants in enumerate(GROUPS):
        seen: set[tuple[int, str]] = set()
        for sample in samples(data, g):
            index = int(sample["name"])
            assert index in variants
            direct = encode_images(to_tensor(pictures.image(index))[None])[0]
            assert torch.equal(sample["latents"], direct)
            assert sample["latents"].dtype == torch.float32
            fits = []
            for caption in pictures.captions(index):
                text = encode_text([caption])
                m = text.tokens.shape[1]
                same = torch.equal(sample["tokens"][:m], text.tokens[0].half().float())
                if same and sample["mask"].tolist() == [True] * m + [False] * (len(sample["mask"]) - m):
                    assert torch.equal(sample["pooled"], text.pooled[0].half().float())
                    assert sample["tokens"][m:].eq(0).all()
                    fits.append(caption)
            assert len(fits) == 1
            seen.add((index, fits[0]))
        assert seen == {(i, caption) for i in variants for caption in pictures.captions(i)}


def test_every_variant_and_caption_is_drawn_evenly(tmp_path: Path):
    drawn = samples(build(tmp_path), 2, 900)
    for index in (3, 4, 5):
        share = np.mean([int(s["name"]) == index for s in drawn])
        assert share == pytest.approx(1 / 3, abs=0.06)
    lengths = [int(s["mask"].sum()) for s in drawn if s["name"] == "5"]  # captions of 2, 3 and 4 words
    for words in (2, 3, 4):
        assert np.mean([n == words for n in lengths]) == pytest.approx(1 / 3, abs=0.09)


def test_samples_fit_into_one_batch_whatever_their_part(tmp_path: Path):
    data = build(tmp_path)
    shapes = {tuple(s["tokens"].shape) for g in range(len(data)) for s in samples(data, g, 5)}
    assert shapes == {(4, 3)}


def test_text_is_stored_in_half_precision_without_padding(tmp_path: Path):
    build(tmp_path)
    part = module._read_part(tmp_path / "part-00000.safetensors")[0]
    words = [len(c.split()) for i in range(4) for c in Pictures().captions(i)]
    assert part["tokens"].dtype == part["pooled"].dtype == torch.float16
    assert part["tokens"].shape == (sum(words), 3)
    assert part["latents"].dtype == torch.float32


def test_statistics_are_those_of_all_latents(tmp_path: Path):
    mean, std = build(tmp_path).statistics()
    direct = encode_images(torch.stack([to_tensor(Pictures().image(i)) for i in range(COUNT)]))
    torch.testing.assert_close(mean, direct.mean((0, 2, 3)))
    torch.testing.assert_close(std, direct.std((0, 2, 3)))


def test_without_an_encoder_the_words_are_kept(tmp_path: Path):
    data = build(tmp_path, text=False)
    for g, variants in enumerate(GROUPS):
        expected = {caption for i in variants for caption in Pictures().captions(i)}
        assert {s["caption"] for s in samples(data, g)} == expected
        assert "tokens" not in data.sample(g, np.random.default_rng(0))


def test_classes(tmp_path: Path):
    data = build(tmp_path, Pictures(labelled=True), text=False)
    for sample in samples(data, 2):
        assert sample["class_label"] == int(sample["name"]) % 4
        assert set(sample) == {"latents", "name", "class_label"}


def test_a_build_that_was_cut_short_goes_on(tmp_path: Path):
    calls: list[int] = []

    def count(images: Tensor) -> Tensor:
        calls.append(len(images))
        return encode_images(images)

    def cut(images: Tensor) -> Tensor:
        if len(calls) == 3:
            raise KeyboardInterrupt
        return count(images)

    with pytest.raises(KeyboardInterrupt):
        build_cache(Pictures(), cut, encode_text, tmp_path / "a", progress=False)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["part-00000.safetensors"]
    with pytest.raises(PochadeError, match="no finished cache"):
        CachedLatents(tmp_path / "a")
    kept = (tmp_path / "a" / "part-00000.safetensors").stat().st_mtime_ns
    calls.clear()
    build_cache(Pictures(), count, encode_text, tmp_path / "a", progress=False)
    assert sum(calls) == COUNT - 4
    assert (tmp_path / "a" / "part-00000.safetensors").stat().st_mtime_ns == kept
    build(tmp_path / "b")
    names = sorted(p.name for p in (tmp_path / "b").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    calls.clear()
    build_cache(Pictures(), count, encode_text, tmp_path / "a", progress=False)
    assert calls == []


def test_a_damaged_part_is_named_and_made_again_once_deleted(tmp_path: Path):
    build(tmp_path)
    path = tmp_path / "part-00001.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:100], b"", whole[: len(whole) - 8]):
        path.write_bytes(damaged)
        with pytest.raises(PochadeError, match=r"part-00001\.safetensors: damaged") as caught:
            build(tmp_path)
        assert "\n" not in str(caught.value)
    path.unlink()
    build(tmp_path)
    assert path.read_bytes() == whole


def test_no_pictures(tmp_path: Path):
    with pytest.raises(PochadeError, match="pictures: there are none"):
        build(tmp_path / "new", Pictures(0))
    assert not (tmp_path / "new").exists()
    with pytest.raises(PochadeError, match="no finished cache"):
        CachedLatents(tmp_path)


def test_fingerprint_changes_with_all_that_matters():
    class Renamed(Pictures):
        def captions(self, index: int) -> list[str]:
            return ["another"] if index == 7 else super().captions(index)

    class Regrouped(Pictures):
        def group(self, index: int) -> int:
            return index

    base = fingerprint(Pictures(), "a", "b")
    assert fingerprint(Pictures(), "a", "b") == base
    assert len(base) == 16
    int(base, 16)
    others = [
        fingerprint(Pictures(), "a", "c"),
        fingerprint(Pictures(), "ab", ""),
        fingerprint(Pictures(10), "a", "b"),
        fingerprint(Pictures(shade=1), "a", "b"),
        fingerprint(Pictures(labelled=True), "a", "b"),
        fingerprint(Renamed(), "a", "b"),
        fingerprint(Regrouped(), "a", "b"),
    ]
    assert len({base, *others}) == len(others) + 1


def test_a_cache_says_how_much_it_holds(tmp_path: Path):
    build(tmp_path)
    assert json.loads((tmp_path / "cache.json").read_text()) == {"pictures": COUNT, "parts": 3}
