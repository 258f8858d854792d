from collections import defaultdict

import numpy as np
import pytest

from pochade.data.dataset import is_held_out
from pochade.data.sources.image_files import Reading
from pochade.data.sources.openmoji import OpenMoji, concept_of
from pochade.data.sources.openmoji_groups import GROUPS
from pochade.errors import PochadeError

SKIN_TONES = range(0x1F3FB, 0x1F400)
JOINERS = {0x200D, 0xFE0F}
GENDER_SIGNS = {0x2640, 0x2642}
RIGHTWARDS = 0x27A1
MAN, WOMAN, PERSON = 0x1F468, 0x1F469, 0x1F9D1


@pytest.fixture(scope="module")
def train() -> OpenMoji:
    return OpenMoji("train")


@pytest.fixture(scope="module")
def held_out() -> OpenMoji:
    return OpenMoji("held_out")


@pytest.fixture(scope="module")
def everything() -> OpenMoji:
    return OpenMoji("all")


def test_counts(train: OpenMoji, held_out: OpenMoji, everything: OpenMoji):
    assert 3900 <= len(everything) <= 4000
    assert 1600 <= len(everything.groups()) <= 1800
    assert len(train) + len(held_out) == len(everything)
    assert len(train.groups()) + len(held_out.groups()) == len(everything.groups())
    assert len({drawing.code for drawing in everything.drawings}) == len(everything)
    assert len({drawing.name for drawing in everything.drawings}) == len(everything)


def test_a_tenth_of_the_concepts_is_held_out(train: OpenMoji, held_out: OpenMoji, everything: OpenMoji):
    assert 0.085 <= len(held_out.groups()) / len(everything.groups()) <= 0.115
    sides = [{item.concept for item in split.drawings} for split in (train, held_out)]
    assert not sides[0] & sides[1]
    assert all(is_held_out(concept) for concept in sides[1])


def test_variants_of_skin_tone_gender_and_direction_are_one_concept(everything: OpenMoji):
    """By code points, which know nothing of names: without tone, sign and direction, and with a person for a man."""
    concepts: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for item in everything.drawings:
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
    by_code = {item.code: item for item in everything.drawings}
    assert by_code["1F34E"].name == "red apple"
    assert by_code["1F1EF-1F1F5"].name == "flag of Japan"
    assert by_code["1F3FB"].name == "light skin tone swatch"
    for item in everything.drawings:
        for words in (item.name, *item.keywords):
            assert words == " ".join(words.split())
            assert words
            assert not set(words) & set(":_“”’")
        assert item.name.casefold() not in {k.casefold() for k in item.keywords}


def test_groups_are_the_concepts(train: OpenMoji):
    assert train.groups().keys() == {drawing.concept for drawing in train.drawings}
    assert all(train.item(i).group == train.drawings[i].concept for i in range(len(train)))


def test_captions(train: OpenMoji):
    index = next(i for i, drawing in enumerate(train.drawings) if len(drawing.keywords) > 1)
    drawing = train.drawings[index]
    words = ", ".join(drawing.keywords)
    name = drawing.name
    assert train.item(index).captions == (name, f"{name}, {words}", f"{words}, {name}", words)
    plain = next(i for i, drawing in enumerate(train.drawings) if not drawing.keywords)
    assert train.item(plain).captions == (train.drawings[plain].name,)


def test_pictures(everything: OpenMoji):
    apple = next(i for i, drawing in enumerate(everything.drawings) if drawing.name == "red apple")
    picture = np.asarray(everything.image(apple, 64))
    assert picture.shape == (64, 64, 3)
    assert (picture[0] == 255).all()  # the border is white
    centre = picture[34:44, 26:40].reshape(-1, 3).mean(0)
    assert centre[0] > centre[1] + 80  # and the middle is red
    assert centre[0] > centre[2] + 80
    everything.image(apple, 64).putpixel((0, 0), (0, 0, 0))  # what a caller changes is a copy
    assert np.array_equal(np.asarray(everything.image(apple, 64)), picture)


def test_random_backgrounds_are_plain_and_leave_the_drawing():
    white, coloured = (OpenMoji("held_out", reading=Reading(ground)) for ground in ("white", "random"))
    corners = set()
    for index in range(8):
        image, plain = (np.asarray(data.image(index, 32)).astype(int) for data in (coloured, white))
        ground = image[0, 0]
        corners.add(tuple(ground.tolist()))
        # What is mixed by alpha a is white (1 - a) lighter than on black, and the ground stands in that place.
        black = np.asarray(OpenMoji("held_out", reading=Reading("black")).image(index, 32)).astype(int)
        assert abs(image - (black + (plain - black) * ground / 255)).max() <= 1
        assert coloured.identity(index) != white.identity(index)
    assert len(corners) == 8


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pochade.data.sources.openmoji.KEPT_BYTES", 3 * 3 * 16 * 16)
    data = OpenMoji("held_out")
    pictures = [data.image(i, 16).tobytes() for i in range(6)]
    assert len(data._kept) == 3
    assert [data.image(i, 16).tobytes() for i in range(6)] == pictures


def test_wrong_arguments_are_named(train: OpenMoji):
    for size in (0, 10_000):
        with pytest.raises(PochadeError, match=f"size: {size}"):
            train.image(0, size)
    with pytest.raises(PochadeError, match="split: 'test'"):
        OpenMoji("test")  # type: ignore[arg-type]


def test_drawings_lie_in_their_groups():
    data = OpenMoji("all", groups=True)
    assert data.classes == GROUPS
    labels = [data.item(i).label for i in range(len(data))]
    names = {drawing.name: GROUPS[label] for drawing, label in zip(data.drawings, labels, strict=True)}
    assert names["red apple"] == "food and drink"
    assert names["cat face"] == "animals and nature"
    assert names["grinning face"] == "smileys and emotion"
    assert names["flag of Japan"] == "flags"
    assert names["man farmer dark skin tone"] == "people and body"
    assert names["men wrestling light skin tone dark skin tone"] == "people and body"
    assert set(names.values()) == set(GROUPS)
    # The list knows nearly all of them: what is left over is no group of its own.
    assert np.bincount(labels).min() > 50
    # Variants of a concept share its group where the list is silent.
    groups: dict[str, set[int | None]] = {}
    for drawing, label in zip(data.drawings, labels, strict=True):
        groups.setdefault(drawing.concept, set()).add(label)
    assert sum(len(found) > 1 for found in groups.values()) < 0.02 * len(groups)
