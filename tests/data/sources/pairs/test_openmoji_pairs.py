from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pochade.data.dataset import is_held_out
from pochade.data.sources.openmoji import OpenMoji
from pochade.data.sources.pairs.attributes import relatives_in_hair, relatives_in_person, relatives_in_tone
from pochade.data.sources.pairs.layers import PALETTE, areas, colours_of, draw, read_layers, repaint, shade_for_shade
from pochade.data.sources.pairs.masked import changed_area, mark
from pochade.data.sources.pairs.openmoji import EDITS, KINDS, OpenMojiPairs, draw_caption
from pochade.data.sources.pairs.pair import HOLE, PAIR_TASKS, differ
from pochade.data.sources.pairs.wordings import WORDINGS
from pochade.errors import PochadeError
from pochade.types import TASKS

SIZE = 32


def pairs_of(kind: str, count: int = 12, split: str = "train"):
    data = OpenMojiPairs(SIZE, split, {kind: 1.0})
    return [data.pair((i * 131) % len(data), np.random.default_rng([3, i])) for i in range(count)]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.int16)


@pytest.fixture(scope="module")
def everything() -> OpenMoji:
    return OpenMoji("all")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_the_picture(kind: str):
    for pair in pairs_of(kind):
        assert pair.task == (kind if kind in TASKS else "edit")
        assert pair.source.size == pair.target.size == (SIZE, SIZE)
        assert pair.source.mode == pair.target.mode == "RGB"
        assert differ(pair.source, pair.target)
        assert pair.instruction
        assert "{" not in pair.instruction
        assert pair.name.endswith(f"-{kind}")
        assert (pair.mask is None) == (kind not in ("inpaint", "local"))


def test_samples_are_tensors():
    data = OpenMojiPairs(SIZE)
    assert data.tasks == PAIR_TASKS
    tasks = set()
    for index in range(30):
        sample = data.sample(index, np.random.default_rng(index))
        assert set(sample) == {"source", "target", "mask", "instruction", "task", "name"}
        for name in ("source", "target"):
            assert sample[name].shape == (3, SIZE, SIZE)
            assert sample[name].dtype == torch.float32
            assert sample[name].abs().max() <= 1
        assert sample["mask"].shape == (1, SIZE, SIZE)
        masked = TASKS[sample["task"]] == "inpaint" or sample["name"].endswith("-local")
        assert sample["mask"].unique().tolist() == ([0, 1] if masked else [0])
        tasks.add(TASKS[sample["task"]])
    assert tasks == {"edit", "inpaint", "super_resolution"}


def test_the_generator_alone_decides():
    one, other = OpenMojiPairs(SIZE), OpenMojiPairs(SIZE)
    for index in range(10):
        a, b = one.sample(index, np.random.default_rng(index)), other.sample(index, np.random.default_rng(index))
        assert (a["instruction"], a["name"], a["task"]) == (b["instruction"], b["name"], b["task"])
        assert all(torch.equal(a[name], b[name]) for name in ("source", "target", "mask"))
    assert one.pair(4).source.tobytes() == other.pair(4).source.tobytes()
    assert len({one.sample(4, np.random.default_rng(seed))["name"] for seed in range(12)}) > 6


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_no_pair_has_a_concept_of_the_other_side(split: str):
    data = OpenMojiPairs(SIZE, split)
    concepts = {item.code: item.concept for item in OpenMoji("all").drawings}
    for index in range(120):
        pair = data.pair(index % len(data), np.random.default_rng([1, index]))
        code = pair.name.rsplit("-", 1)[0]
        assert concepts[code] == pair.group
        assert is_held_out(pair.group) == (split == "held_out")


def test_relatives_stay_in_their_split():
    for split in ("train", "held_out"):
        items = OpenMoji(split).drawings
        for relatives in (relatives_in_tone, relatives_in_person, relatives_in_hair):
            found = relatives(items)
            # Of the styles of hair, too few are held out.
            assert found or relatives is relatives_in_hair
            assert all(same[name] < len(items) for same in found.values() for name in same)


def test_kinds_are_drawn_by_their_weights():
    data = OpenMojiPairs(8, "train", {"mirror": 3.0, "inpaint": 1.0, "skin": 0.0})
    kinds = Counter(data.pair(i, np.random.default_rng(i)).name.rpartition("-")[2] for i in range(200))
    assert set(kinds) == {"mirror", "inpaint"}
    assert 0.62 < kinds["mirror"] / 200 < 0.86


def test_a_hole_is_grey_and_the_rest_untouched():
    for pair in pairs_of("inpaint"):
        assert pair.mask is not None
        hole = np.asarray(pair.mask) == 255
        assert (pixels(pair.source)[hole] == HOLE).all()
        assert (pixels(pair.source)[~hole] == pixels(pair.target)[~hole]).all()
        assert (pixels(pair.target)[hole] < 255).any()


def test_a_local_edit_is_shown_whole_and_changes_one_area_inside_its_mask():
    boxes = 0
    for pair in pairs_of("local", 40):
        assert pair.task == "edit"
        assert pair.mask is not None
        before, after, marked = pixels(pair.source), pixels(pair.target), np.asarray(pair.mask) == 255
        changed = (before != after).any(-1)
        assert changed.any()
        assert not changed[~marked].any()
        assert changed.sum() < marked.sum() <= 0.7 * marked.size
        rows, columns = (np.flatnonzero(marked.any(axis)) for axis in (1, 0))
        boxes += bool(marked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())
        # The area is of one colour, but for the mixtures at its border. What it was is not named, what it becomes is.
        fractions = areas(pair.source), areas(pair.target)
        less = sorted(fractions[0][name] - fractions[1][name] for name in PALETTE)
        (colour,) = (word for word in pair.instruction.split() if word in PALETTE)
        assert less[-1] > 5 * less[-2]
        assert fractions[1][colour] > fractions[0][colour] + 0.005
    assert 4 < boxes < 36


def test_an_area_is_connected_and_its_box_holds_nothing_else_that_could_be_meant():
    source = Image.new("RGB", (20, 20), "white")
    for box in ((2, 2, 6, 6), (6, 6, 8, 8), (12, 2, 16, 6)):
        source.paste((234, 90, 71), box)
    target = Image.new("RGB", (20, 20), "white")
    found = {changed_area(source, target, np.random.default_rng(i)).sum() for i in range(8)}
    assert found == {20, 16}  # those that touch at a corner are one
    assert not changed_area(source, source, np.random.default_rng(0)).any()
    area = np.zeros((20, 20), bool)
    area[2:6, 2:6] = area[6:8, 6:8] = True
    none, near, far = (np.zeros((20, 20), bool) for _ in range(3))
    near[3, 7], far[3, 14] = True, True

    def sizes(others: np.ndarray) -> set[int]:
        return {int((np.asarray(mark(source, area, others, np.random.default_rng(i))) > 0).sum()) for i in range(40)}

    assert sizes(none) == sizes(far) == {8 * 8, 10 * 10, 36 + 16 - 4, 64 + 36 - 16}
    assert sizes(near) == {36 + 16 - 4, 64 + 36 - 16}
    source.paste((97, 178, 228), (0, 6, 6, 10))  # more of another colour in the box than of the area
    assert sizes(none) == sizes(near)


def test_mirroring_twice_is_nothing():
    for pair in pairs_of("mirror"):
        assert ImageOps.mirror(pair.target).tobytes() == pair.source.tobytes()


def test_outlines_have_no_colours_and_colouring_in_is_the_inverse():
    for pair in pairs_of("outline"):
        lines = pixels(pair.target)
        assert (lines.max(-1) - lines.min(-1) <= 1).all()
    forth = OpenMojiPairs(SIZE, "train", {"outline": 1.0})
    back = OpenMojiPairs(SIZE, "train", {"colour_in": 1.0})
    one, other = (data.pair(700, np.random.default_rng(2)) for data in (forth, back))
    assert one.source.tobytes() == other.target.tobytes()
    assert one.target.tobytes() == other.source.tobytes()


def test_recolouring_leaves_outlines_white_and_skin():
    everything = OpenMoji("all")
    index = next(i for i, item in enumerate(everything.drawings) if item.name == "man farmer light skin tone")
    layers = read_layers(everything.drawings[index].path)
    assert "FADCBC" in colours_of(layers, "skin")
    repaint(layers, "color", shade_for_shade("green", "purple"))
    before, after = pixels(everything.image(index, 128)), pixels(draw(layers, 128))
    for kept in ((0, 0, 0), (255, 255, 255), tuple(bytes.fromhex("FADCBC"))):
        same = (before == kept).all(-1)
        assert same.sum() > 50
        assert (after[same] == kept).all()
    names = {name for name, fraction in areas(draw(layers, 128)).items() if fraction}
    assert "purple" in names
    assert "green" not in names


def test_the_instruction_of_recolouring_matches_the_change():
    for pair in pairs_of("recolour", 25):
        before, after = areas(pair.source), areas(pair.target)
        colours = [word for word in pair.instruction.split() if word in PALETTE]
        assert colours
        if any(word in pair.instruction for word in ("swap", "exchange")):
            assert all(max(before[name], after[name]) > 0.02 for name in colours)
        else:
            new = max(colours, key=lambda name: after[name] - before[name])
            assert after[new] > before[new]


def test_every_shade_of_a_colour_has_one_of_another():
    for old in PALETTE:
        for new in PALETTE:
            assert set(shade_for_shade(old, new)) == set(PALETTE[old])
            assert set(shade_for_shade(old, new).values()) <= set(PALETTE[new])


def test_areas_of_a_plain_picture():
    red = Image.new("RGB", (8, 8), "white")
    red.paste((0xD2, 0x2F, 0x27), (0, 0, 8, 4))
    assert areas(red) == {name: 0.5 if name == "red" else 0.0 for name in PALETTE}


def test_relatives_differ_in_one_way(everything: OpenMoji):
    items = everything.drawings
    by_name = {item.name: index for index, item in enumerate(items)}

    def names(relatives: dict[int, dict[str, int]], name: str) -> dict[str, str]:
        return {word: items[index].name for word, index in relatives[by_name[name]].items()}

    tones = relatives_in_tone(items)
    assert names(tones, "waving hand")["dark"] == "waving hand dark skin tone"
    assert len(names(tones, "waving hand")) == 6
    assert by_name["red apple"] not in tones
    persons = relatives_in_person(items)
    assert names(persons, "farmer dark skin tone") == {
        "man": "man farmer dark skin tone",
        "woman": "woman farmer dark skin tone",
        "person": "farmer dark skin tone",
    }
    assert set(names(persons, "boy")) == {"boy", "girl", "child"}
    assert set(names(persons, "old man")) == {"man", "woman", "person"}
    assert set(names(persons, "prince")) == {"prince", "princess"}
    assert by_name["family man girl"] not in persons
    styles = relatives_in_hair(items)
    assert names(styles, "woman")["bald"] == "woman bald"
    assert names(styles, "man bald")["red hair"] == "man red hair"
    assert by_name["red apple"] not in styles


def test_every_wording_is_complete():
    parts = {"old": "red", "new": "blue", "name": "apple", "who": "man"}
    for wordings in WORDINGS.values():
        assert len(set(wordings)) == len(wordings) >= 3
        assert all("{" not in wording.format(**parts) for wording in wordings)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"mirrors": 1.0}, r"weights: 'mirrors' given, allowed are inpaint, .*did you mean 'mirror'"),
        ({"mirror": -1.0}, r"weights: -1.0 given for mirror"),
        ({"mirror": float("nan")}, r"weights: nan given for mirror"),
        ({"mirror": 0.0}, r"weights: all are 0"),
        ({}, r"weights: all are 0"),
    ],
)
def test_weights_are_checked(weights: dict[str, float], message: str):
    with pytest.raises(PochadeError, match=message):
        OpenMojiPairs(SIZE, weights=weights)


def test_other_arguments_are_those_of_the_drawings():
    with pytest.raises(PochadeError, match=r"split: 'test'"):
        OpenMojiPairs(SIZE, "test")  # pyright: ignore[reportArgumentType]
    assert set(EDITS) < set(KINDS)


def test_captions_are_drawn_from_the_words():
    drawings = OpenMoji("train").drawings
    drawing = next(drawing for drawing in drawings if len(drawing.keywords) > 1)
    drawn = [draw_caption(drawing, np.random.default_rng(seed)) for seed in range(400)]
    words = {drawing.name, *drawing.keywords}
    assert all(caption and set(caption.split(", ")) <= words for caption in drawn)
    assert 0.85 <= np.mean([drawing.name in caption.split(", ") for caption in drawn]) < 1
    assert 0.4 < np.mean([drawing.keywords[0] in caption.split(", ") for caption in drawn]) < 0.6
    assert len({caption.split(", ")[0] for caption in drawn}) == len(words)  # any of them may come first
    plain = next(drawing for drawing in drawings if not drawing.keywords)
    assert draw_caption(plain, np.random.default_rng(0)) == plain.name


def test_identities_change_with_what_pairs_are_made():
    one, same = OpenMojiPairs(SIZE, "held_out"), OpenMojiPairs(SIZE, "held_out")
    assert (one.identity(3), one.fingerprint()) == (same.identity(3), same.fingerprint())
    assert one.identity(3) != one.identity(4)
    for other in (OpenMojiPairs(16, "held_out"), OpenMojiPairs(SIZE, "held_out", {"mirror": 1.0})):
        assert other.fingerprint() != one.fingerprint()
        assert other.identity(3) != one.identity(3)
