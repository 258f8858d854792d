from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from pochade.data.dataset import Dataset, is_held_out
from pochade.data.sources.openmoji import OpenMoji, concept_of
from pochade.errors import PochadeError

SKIN_TONES = range(0x1F3FB, 0x1F400)
JOINERS = {0x200D, 0xFE0F}
GENDER_SIGNS = {0x2640, 0x2642}
RIGHTWARDS = 0x27A1
MAN, WOMAN, PERSON = 0x1F468, 0x1F469, 0x1F9D1


@pytest.fixture(scope="module")
def train() -> OpenMoji:
    return OpenMoji(16, "train")


@pytest.fixture(scope="module")
def held_out() -> OpenMoji:
    return OpenMoji(16, "held_out")


@pytest.fixture(scope="module")
def everything() -> OpenMoji:
    return OpenMoji(16, "all")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_counts(train: OpenMoji, held_out: OpenMoji, everything: OpenMoji):
    assert 3900 <= len(everything.items) <= 4000
    assert 1600 <= len(everything) <= 1800
    assert len(train) + len(held_out) == len(everything)
    assert len(train.items) + len(held_out.items) == len(everything.items)
    assert len({item.code for item in everything.items}) == len(everything.items)
    assert len({item.name for item in everything.items}) == len(everything.items)


def test_a_tenth_of_the_concepts_is_held_out(train: OpenMoji, held_out: OpenMoji, everything: OpenMoji):
    assert 0.085 <= len(held_out) / len(everything) <= 0.115
    sides = [{item.concept for item in split.items} for split in (train, held_out)]
    assert not sides[0] & sides[1]
    assert all(is_held_out(concept) for concept in sides[1])
    assert isinstance(train, Dataset)


def test_variants_of_skin_tone_gender_and_direction_are_one_concept(everything: OpenMoji):
    """By code points, which know nothing of names: without tone, sign and direction, and with a person for a man."""
    concepts: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for item in everything.items:
        points = [int(part, 16) for part in item.code.split("-")]
        if len(points) > 1:
            points = [p for p in points if p not in SKIN_TONES and p not in JOINERS | GENDER_SIGNS | {RIGHTWARDS}]
        concepts[tuple(PERSON if p in (MAN, WOMAN) else p for p in points)].add(item.concept)
    assert {code: found for code, found in concepts.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    "names",
    [
        ("man farmer dark skin tone", "woman farmer", "farmer medium-light skin tone"),
        ("mermaid", "merman light skin tone", "merperson"),
        ("woman and man holding hands", "men holding hands dark skin tone light skin tone", "people holding hands"),
        ("boy", "girl medium skin tone", "child"),
        ("prince", "princess dark skin tone"),
        ("old man", "old woman light skin tone", "older person"),
        ("Santa Claus", "Mrs. Claus dark skin tone", "Mx Claus"),
        ("family man girl", "family woman woman boy boy", "family"),
        ("man running facing right", "person running"),
        ("man", "woman dark skin tone", "person"),
        ("waving hand", "waving hand medium-dark skin tone"),
    ],
)
def test_concept_is_what_tone_gender_and_direction_leave(names: tuple[str, ...]):
    assert len({concept_of(name) for name in names}) == 1


def test_other_things_stay_apart():
    names = ("old key", "key", "light bulb", "man's shoe", "cowboy hat face", "waving hand", "dark moon", "family")
    assert len({concept_of(name) for name in names}) == len(names)


def test_names_are_plain_words(everything: OpenMoji):
    by_code = {item.code: item for item in everything.items}
    assert by_code["1F34E"].name == "red apple"
    assert by_code["1F1EF-1F1F5"].name == "flag of Japan"
    assert by_code["1F3FB"].name == "light skin tone swatch"
    for item in everything.items:
        for words in (item.name, *item.keywords):
            assert words == " ".join(words.split())
            assert words
            assert not set(words) & set(":_“”’")
        assert item.name.casefold() not in {k.casefold() for k in item.keywords}


def test_groups_are_the_concepts(train: OpenMoji):
    assert sum(len(variants) for variants in train.concepts) == len(train.items)
    for g, variants in enumerate(train.concepts):
        assert {train.items[v].concept for v in variants} == {train.items[variants[0]].concept}
        assert all(train.group(v) == g for v in variants)


def test_captions(train: OpenMoji):
    index = next(i for i, item in enumerate(train.items) if len(item.keywords) > 1)
    item = train.items[index]
    assert train.caption(index) == ", ".join((item.name, *item.keywords))
    ways = train.captions(index)
    assert ways[0] == item.name
    assert len(set(ways)) == len(ways) == 4
    drawn = [train.draw_caption(index, rng(seed)) for seed in range(400)]
    words = {item.name, *item.keywords}
    assert all(set(caption.split(", ")) <= words for caption in drawn)
    assert all(caption for caption in drawn)
    assert 0.85 <= np.mean([item.name in c.split(", ") for c in drawn]) < 1
    share = np.mean([item.keywords[0] in c.split(", ") for c in drawn])
    assert 0.4 < share < 0.6
    assert len({c.split(", ")[0] for c in drawn}) == len(words)  # any of them may come first
    plain = next(i for i, item in enumerate(train.items) if not item.keywords)
    assert train.captions(plain) == (train.items[plain].name,)
    assert train.draw_caption(plain, rng()) == train.items[plain].name


def test_samples_are_determined_by_the_generator(train: OpenMoji):
    index = max(range(len(train)), key=lambda i: len(train.concepts[i]))
    a, b = train.sample(index, rng(3)), train.sample(index, rng(3))
    assert a["caption"] == b["caption"]
    assert a["name"] == b["name"]
    assert torch.equal(a["image"], b["image"])
    assert {train.sample(index, rng(s))["item"] for s in range(30)} <= set(train.concepts[index])
    assert len({train.sample(index, rng(s))["name"] for s in range(30)}) > 5
    other = OpenMoji(16, "train")
    assert other.items == train.items
    assert torch.equal(other.sample(index, rng(3))["image"], a["image"])


def test_pictures(train: OpenMoji, everything: OpenMoji):
    sample = train.sample(0, rng())
    assert sample["image"].shape == (3, 16, 16)
    assert sample["image"].dtype == torch.float32
    assert sample["image"].abs().max() <= 1
    apple = next(i for i, item in enumerate(everything.items) if item.name == "red apple")
    picture = np.asarray(OpenMoji(64, "all").image(apple))
    assert picture.shape == (64, 64, 3)
    assert (picture[0] == 255).all()  # the border is white
    centre = picture[34:44, 26:40].reshape(-1, 3).mean(0)
    assert centre[0] > centre[1] + 80  # and the middle is red
    assert centre[0] > centre[2] + 80


def test_random_backgrounds_are_plain_and_leave_the_drawing(everything: OpenMoji):
    data = OpenMoji(16, "all", background="random")
    index = everything.group(next(i for i, item in enumerate(everything.items) if item.name == "red apple"))
    corners = set()
    for seed in range(8):
        image = data.sample(index, rng(seed))["image"]
        corners.add(tuple(image[:, 0, 0].tolist()))
        assert torch.equal(image[:, 0], image[:, 0, :1].expand(3, 16))
    assert len(corners) == 8
    item = everything.concepts[index][0]
    white, black = everything.pixels(item).astype(int), everything.pixels(item, (0, 0, 0)).astype(int)
    opaque = (white == black).all(-1)
    assert opaque.sum() > 40
    assert ((white - black) >= 0).all()
    grey = everything.pixels(item, (128, 128, 128)).astype(int)
    assert abs(grey - (white * 128 + black * 127) / 255).max() <= 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pochade.data.sources.openmoji.KEPT_BYTES", 3 * 4 * 16 * 16)
    data = OpenMoji(16, "held_out")
    pictures = [data.pixels(i) for i in range(6)]
    assert len(data._kept) == 3
    assert all(np.array_equal(data.pixels(i), pictures[i]) for i in range(6))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"size": 4}, "size: 4"),
        ({"size": 4096}, "size: 4096"),
        ({"split": "test"}, "split: 'test'"),
        ({"background": "blue"}, "background: 'blue'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, name: str):
    with pytest.raises(PochadeError, match=name):
        OpenMoji(**arguments)


def test_files_are_drawings(train: OpenMoji):
    assert all(Path(item.path).suffix == ".svg" for item in train.items)
