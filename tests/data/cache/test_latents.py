"""Latents and text vectors on the disk: what a batch holds, what is encoded again after a change, and what it costs."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.cache.toys import Counting, encode_images, encode_text, write_sparse, write_sparse_cache
from data.memory import GROUPS, Flat, MemoryDataset, captioned, labelled
from pochade.data.cache.latents import CachedLatents, cache_latents
from pochade.errors import FailureError, PochadeError
from pochade.images.decode import to_tensor
from pochade.nn.keyed_random import sample_keys

SIZE = 8


def cached(folder: Path, dataset: MemoryDataset | None = None, counting: Counting | None = None) -> CachedLatents:
    encoders = (counting or Counting()).encoders
    return cache_latents(captioned() if dataset is None else dataset, SIZE, encoders, folder, progress=False)


def drawn(data: CachedLatents, index: int, count: int = 60) -> dict[str, Any]:
    return data.batch(torch.full((count,), index), sample_keys(index, torch.arange(count)))


def number(name: str) -> int:
    return int(name.removeprefix("picture "))


def test_latents_and_text_are_those_of_encoding_directly(tmp_path: Path) -> None:
    data, dataset = cached(tmp_path), captioned()
    assert (len(data), data.pictures, data.latent_shape, data.longest) == (len(GROUPS), 11, (2, 1, 2), 4)
    for index, members in enumerate(GROUPS):
        batch = drawn(data, index)
        assert batch["latents"].dtype == batch["tokens"].dtype == torch.float32
        seen: set[tuple[int, str]] = set()
        for row, name in enumerate(batch["name"]):
            picture = number(name)
            direct = encode_images(to_tensor(dataset.image(picture, SIZE))[None])[0]
            assert torch.equal(batch["latents"][row], direct)
            words = int(batch["mask"][row].sum())
            (caption,) = (c for c in dataset.item(picture).captions if len(c.split()) == words)
            text = encode_text([caption])
            assert torch.equal(batch["tokens"][row, :words], text.tokens[0].half().float())
            assert not batch["tokens"][row, words:].any()
            assert batch["mask"][row].tolist() == [place < words for place in range(batch["mask"].shape[1])]
            assert torch.equal(batch["pooled"][row], text.pooled[0].half().float())
            seen.add((picture, caption))
        assert seen == {(i, caption) for i in members for caption in dataset.item(i).captions}


def test_text_can_have_one_length_in_all_batches(tmp_path: Path) -> None:
    plain = cached(tmp_path)
    padded = cache_latents(captioned(), SIZE, Counting().encoders, tmp_path, progress=False, one_length=True)
    for index in range(len(plain)):
        short, long = drawn(plain, index, 3), drawn(padded, index, 3)
        width = short["tokens"].shape[1]
        assert long["tokens"].shape[1] == long["mask"].shape[1] == plain.longest
        assert torch.equal(long["tokens"][:, :width], short["tokens"])
        assert torch.equal(long["mask"][:, :width], short["mask"])
        assert not long["tokens"][:, width:].any()
        assert not long["mask"][:, width:].any()


def test_every_variant_and_caption_is_drawn_evenly(tmp_path: Path) -> None:
    batch = drawn(cached(tmp_path), 2, 9000)
    pictures = torch.tensor([number(name) for name in batch["name"]])
    assert ((torch.bincount(pictures, minlength=6)[3:] - 3000).abs() < 4 * (9000 * 2 / 9) ** 0.5).all()
    lengths = batch["mask"].sum(1)[pictures == 5]  # its captions have 2, 3 and 4 words
    counts = torch.bincount(lengths, minlength=5)[2:].double()
    assert ((counts - len(lengths) / 3).abs() < 4 * (len(lengths) * 2 / 9) ** 0.5).all()


def test_a_sample_is_the_same_alone_and_in_any_batch(tmp_path: Path) -> None:
    data, indices = cached(tmp_path), torch.arange(40) % 7
    keys = sample_keys(5, torch.arange(40))
    whole: dict[str, Any] = data.batch(indices, keys)
    for row in (0, 9, 33):
        alone: dict[str, Any] = data.batch(indices[row : row + 1], keys[row : row + 1])
        words = alone["tokens"].shape[1]
        assert alone["name"][0] == whole["name"][row]
        assert torch.equal(alone["latents"][0], whole["latents"][row])
        assert torch.equal(alone["tokens"][0], whole["tokens"][row, :words])


def test_text_is_kept_in_half_precision_without_padding_and_each_caption_once(tmp_path: Path) -> None:
    dataset = captioned().with_picture(6, replace(captioned().pictures[6], captions=captioned().pictures[5].captions))
    counting = Counting()
    data = cached(tmp_path, dataset, counting)
    captions = [caption for index in range(11) for caption in dataset.item(index).captions]
    assert len(captions) > len(set(captions))
    assert sorted(counting.texts) == sorted(set(captions))
    assert data.captions is not None
    (tokens,) = data.captions.each("tokens")
    assert tokens.dtype == torch.float16
    assert len(tokens) == sum(len(caption.split()) for caption in set(captions))
    (latents,) = data.images.each("latents")
    assert latents.dtype == torch.float32


def test_statistics_are_those_of_all_latents(tmp_path: Path) -> None:
    mean, deviation = cached(tmp_path).statistics()
    direct = encode_images(torch.stack([to_tensor(captioned().image(i, SIZE)) for i in range(11)]))
    torch.testing.assert_close(mean, direct.mean((0, 2, 3)))
    torch.testing.assert_close(deviation, direct.std((0, 2, 3)))


def test_without_an_encoder_the_words_are_kept(tmp_path: Path) -> None:
    data, dataset = cached(tmp_path, counting=Counting(text=False)), captioned()
    for index, members in enumerate(GROUPS):
        batch = drawn(data, index)
        assert set(batch) == {"latents", "name", "caption"}
        assert set(batch["caption"]) == {caption for i in members for caption in dataset.item(i).captions}
        for name, caption in zip(batch["name"], batch["caption"], strict=True):
            assert caption in dataset.item(number(name)).captions
    assert data.longest == 0


def test_words_can_be_had_beside_vectors(tmp_path: Path) -> None:
    """The same captions are drawn, whatever the form of the text."""
    vectors, words = cached(tmp_path), cached(tmp_path, counting=Counting(text=False))
    pictures, keys = torch.arange(11).repeat(5), sample_keys(0, torch.arange(55))
    batch: dict[str, Any] = vectors.of_pictures(pictures, keys, words=True)
    assert batch["caption"] == words.of_pictures(pictures, keys)["caption"]
    encoded: dict[str, Any] = vectors.of_pictures(pictures, keys)
    lengths = encoded["mask"].sum(1).tolist()
    assert lengths == [len(caption.split()) for caption in batch["caption"]]


def test_classes(tmp_path: Path) -> None:
    counting = Counting()
    batch = drawn(cached(tmp_path, labelled(), counting), 2)
    assert set(batch) == {"latents", "name", "class_label"}
    assert batch["class_label"].tolist() == [number(name) % 4 for name in batch["name"]]
    assert counting.texts == []


def test_a_finished_cache_is_opened_without_a_look_at_a_picture(tmp_path: Path) -> None:
    cached(tmp_path)
    counting, dataset = Counting(), captioned()
    cached(tmp_path, dataset, counting)
    assert (counting.images, counting.texts, dataset.read) == (0, [], [])


def changed_caption(dataset: MemoryDataset) -> MemoryDataset:
    picture = dataset.pictures[4]
    return dataset.with_picture(4, replace(picture, captions=("another caption", *picture.captions[1:])))


CHANGES = {
    "repainted": (lambda data: data.repainted(3, (1, 2, 3)), [3], []),
    "caption": (changed_caption, [], ["another caption"]),
    "removed": (lambda data: MemoryDataset(data.pictures[:2] + data.pictures[3:]), [], []),
    "added": (lambda data: MemoryDataset([Flat((9, 9, 9), ("word 0",), name="new"), *data.pictures]), [0], []),
    "order": (lambda data: MemoryDataset(data.pictures[::-1]), [], []),
    "group": (lambda data: data.with_picture(1, replace(data.pictures[1], group="own")), [], []),
}


@pytest.mark.parametrize(("change", "read", "texts"), CHANGES.values(), ids=CHANGES)
def test_only_what_changed_is_encoded_again(tmp_path: Path, change, read: list[int], texts: list[str]) -> None:
    before = cached(tmp_path)
    dataset, counting = change(captioned()), Counting()
    data = cached(tmp_path, dataset, counting)
    assert sorted(dataset.read) == read
    assert counting.texts == texts
    assert data.pictures == len(dataset)
    keys = sample_keys(1, torch.arange(len(dataset)))
    pictures = torch.arange(len(dataset))
    fresh: dict[str, Any] = cached(tmp_path / "fresh", dataset).of_pictures(pictures, keys)
    for name, value in data.of_pictures(pictures, keys).items():
        if isinstance(value, Tensor):
            assert torch.equal(value, fresh[name]), name
        else:
            assert value == fresh[name]
    assert before.of_pictures(torch.arange(11), sample_keys(1, torch.arange(11)))["name"][3] == "picture 3"


def test_every_second_picture_repainted(tmp_path: Path) -> None:
    """None is taken from the cache of before, however many there are."""
    pictures = [Flat((i, 255 - i, 90), (f"plate {i}",), name=f"p{i:03d}.png") for i in range(160)]
    cached(tmp_path, MemoryDataset(pictures))
    new = [replace(p, colour=(p.colour[0], 0, 0)) if i % 2 else p for i, p in enumerate(pictures)]
    dataset, counting = MemoryDataset(new), Counting()
    data = cached(tmp_path, dataset, counting)
    assert counting.images == 80
    assert counting.texts == []
    batch: dict[str, Any] = data.of_pictures(torch.arange(160), torch.arange(160))
    direct = encode_images(torch.stack([to_tensor(dataset.image(i, SIZE)) for i in range(160)]))
    torch.testing.assert_close(batch["latents"], direct)


def test_another_encoder_or_size_is_another_cache_and_captions_are_shared(tmp_path: Path) -> None:
    cached(tmp_path)
    counting = Counting(images_identity="another")
    cached(tmp_path, counting=counting)
    assert counting.images == 11
    assert counting.texts == []
    counting = Counting()
    cache_latents(captioned(), 2 * SIZE, counting.encoders, tmp_path, progress=False)
    assert counting.images == 11
    assert counting.texts == []


def test_a_damaged_part_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = cached(tmp_path)
    path = data.images.folder / "part-00000.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    assert CachedLatents.find(next(tmp_path.glob("latents-*"))) is None
    counting = Counting()
    again = cached(tmp_path, counting=counting)
    assert counting.images == 11
    assert counting.texts == []
    assert capsys.readouterr().err.count("made again") == 1
    assert torch.equal(drawn(again, 0)["latents"], drawn(cached(tmp_path / "b"), 0)["latents"])


def test_what_cannot_be_cached(tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match="dataset: it holds no pictures"):
        cached(tmp_path / "new", MemoryDataset([]))
    with pytest.raises(PochadeError, match=r"dataset: 'x\.png' has neither a caption nor a class"):
        cached(tmp_path / "new", MemoryDataset([Flat((1, 2, 3), name="x.png")]))
    assert not (tmp_path / "new").exists()


def test_names_of_odd_bytes_and_letters_come_back(tmp_path: Path) -> None:
    names = ["Äpfel.png", "狐.png", "odd \udcff.png", ""]
    pictures = [Flat((i, 0, 0), (name or "none",), name=name, group=str(i)) for i, name in enumerate(names)]
    data = cached(tmp_path, MemoryDataset(pictures), Counting(text=False))
    batch: dict[str, Any] = data.of_pictures(torch.tensor([3, 2, 1, 0]), torch.arange(4))
    assert batch["name"] == names[::-1]
    assert batch["caption"] == [name or "none" for name in names[::-1]]


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_ten_million_pictures_are_opened_without_their_data(tmp_path: Path) -> None:
    """160 GB of latents in sparse files, of which all but the first are no parts at all."""
    count, part = 10_000_000, 16384
    write_sparse_cache(tmp_path / "images", count, part, "latents", [16, 16, 16])
    arrays = {"image_row": count, "label": count, "name_first": count + 1, "caption_first": 1, "caption_row": 0}
    zeros = {name: ("I64", [length]) for name, length in arrays.items()}
    zeros |= {"#keys": ("U8", [count, 16]), "name": ("U8", [1])}
    (tmp_path / "latents").mkdir()
    words = {"about": json.dumps({"dataset": "", "images": "images", "captions": ""})}
    write_sparse(tmp_path / "latents" / "index.safetensors", zeros, {}, words)
    before = resident()
    data = CachedLatents.find(tmp_path / "latents")
    assert data is not None
    assert (len(data), data.pictures, data.latent_shape) == (count, count, (16, 16, 16))
    assert resident() - before < 100e6
    indices = torch.randint(count, (512,), generator=torch.Generator().manual_seed(0))
    batch: dict[str, Any] = data.batch(indices, sample_keys(0, torch.arange(512)))
    assert batch["latents"].shape == (512, 16, 16, 16)
    assert resident() - before < 1e9
    with pytest.raises(FailureError, match=r"part-00002\.safetensors: damaged while in use"):
        data.images.gather(torch.tensor([2 * part]), "latents")
