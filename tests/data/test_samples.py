"""Whole batches of pictures, of which each sample depends on its key alone."""

import numpy as np
import pytest
import torch

from data.memory import GROUPS, Flat, MemoryDataset, captioned
from pochade.data.samples import Groups, PixelSamples, digest, digests, groups_of
from pochade.images.decode import BadImage, to_tensor
from pochade.nn.keyed_random import sample_keys


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return sample_keys(seed, torch.arange(count))


def test_groups_are_those_of_the_data_set_in_its_order() -> None:
    groups = groups_of(captioned())
    assert len(groups) == len(GROUPS)
    for index, members in enumerate(GROUPS):
        drawn = groups.draw(torch.full((200,), index), keys(200)).tolist()
        assert set(drawn) == set(members)


def test_groups_whose_pictures_lie_apart() -> None:
    names = digests(b"".join(map(digest, "cacbac")))
    groups = Groups.by_name(names)
    seen = [sorted(set(groups.draw(torch.full((300,), i), keys(300)).tolist())) for i in range(len(groups))]
    assert seen == [[0, 2, 5], [1, 4], [3]]


def test_variants_are_drawn_evenly() -> None:
    drawn = groups_of(captioned()).draw(torch.full((9000,), 2), keys(9000))
    counts = torch.bincount(drawn, minlength=11)
    assert counts.nonzero()[:, 0].tolist() == [3, 4, 5]
    assert ((counts[3:6] - 3000).abs() < 4 * (9000 * 2 / 9) ** 0.5).all()


def test_pictures_without_variants_need_no_table() -> None:
    groups = Groups.by_name(digests(b"".join(digest(str(i)) for i in range(5))))
    assert groups.order is None
    assert len(groups) == 5
    assert torch.equal(groups.draw(torch.tensor([4, 0]), keys(2)), torch.tensor([4, 0]))


def test_digests_differ_between_texts_however_they_are_split() -> None:
    texts = [("ab", ""), ("a", "b"), ("", "ab"), ("ab",), ("b", "a"), ("a", "b", "")]
    assert len({digest(*parts) for parts in texts}) == len(texts)
    assert all(len(digest(*parts)) == 16 for parts in texts)
    assert digest("file\udcff.png") != digest("file.png")  # a name of bytes that are no UTF-8
    stored = digests(b"x" * 15 + b"\0" + b"x" * 16)
    assert len(np.unique(stored)) == 2


def test_pixels_are_those_of_the_pictures() -> None:
    dataset = captioned()
    samples = PixelSamples(dataset, 8)
    assert len(samples) == len(GROUPS)
    batch = samples.batch(torch.tensor([3, 5, 0, 3]), keys(4))
    assert batch["name"] == ["picture 6", "picture 9", "picture 0", "picture 6"]
    image = batch["image"]
    assert isinstance(image, torch.Tensor)
    for row, picture in enumerate((6, 9, 0, 6)):
        assert torch.equal(image[row], to_tensor(dataset.image(picture, 8)))


def test_a_sample_is_the_same_alone_and_in_any_batch() -> None:
    samples, indices = PixelSamples(captioned(), 4), torch.arange(70) % 7
    whole = samples.batch(indices, keys(70))
    for row in (1, 8, 15, 50):
        alone = samples.batch(indices[row : row + 1], keys(70)[row : row + 1])
        assert alone["name"][0] == whole["name"][row]
        assert torch.equal(torch.as_tensor(alone["image"])[0], torch.as_tensor(whole["image"])[row])
    assert len({whole["name"][row] for row in range(2, 70, 7)}) == 3


def test_a_picture_that_is_gone_is_named() -> None:
    class Gone(MemoryDataset):
        def image(self, index: int, size: int):
            if index == 1:
                raise BadImage(self.pictures[index].name, "unreadable")
            return super().image(index, size)

    samples = PixelSamples(Gone([Flat((0, 0, i), ("x",), name=f"{i}.png") for i in range(3)]), 4)
    with pytest.raises(BadImage, match=r"1\.png: unreadable"):
        samples.batch(torch.arange(3), keys(3))


def test_pictures_are_decoded_once_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(MemoryDataset):
        decoded = 0

        def image(self, index, size):
            Counted.decoded += 1
            return super().image(index, size)

    dataset = Counted([Flat((0, 0, i), ("x",), name=f"{i}.png") for i in range(6)])
    samples = PixelSamples(dataset, 4)
    monkeypatch.setattr(samples, "_room", 4)
    first = samples.batch(torch.arange(6), keys(6))["image"]
    assert torch.equal(samples.batch(torch.arange(6), keys(6))["image"], first)
    assert Counted.decoded == 6 + 2
    assert len(samples._kept) == 4
