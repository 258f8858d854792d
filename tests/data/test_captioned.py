"""Captions in several wordings: which there are, that they are drawn evenly, and that their vectors are their own."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.cache.toys import Counting
from data.memory import captioned, labelled
from pochade.data.cache.latents import cache_latents
from pochade.data.cache.on_the_fly import encode_on_the_fly
from pochade.data.captioned import HAD_TRIGGER, Captioned, Wording
from pochade.data.sources import FolderSource
from pochade.data.sources.image_files import Reading
from pochade.errors import PochadeError
from pochade.nn.keyed_random import sample_keys
from pochade.training.data import ImageData


def test_a_trigger_stands_before_what_does_not_have_it():
    wording = Wording("oil by me")
    assert wording.wordings("a fox") == ["oil by me, a fox"]
    assert wording.wordings("a fox, Oil by Me") == ["a fox, Oil by Me"]
    for trigger in ("a", "art", "<art>"):  # of which the caption has the letters alone
        assert Wording(trigger).wordings("cartoon fox") == [f"{trigger}, cartoon fox"]
        assert Wording(trigger).wordings(f"fox,{trigger}.") == [f"fox,{trigger}."]


def test_templates_are_used_as_often_as_each_other():
    wording = Wording("by me", ("a drawing of {}", "{}, drawn by me"))
    assert wording.wordings("a fox") == ["by me, a drawing of a fox", "a fox, drawn by me"]
    assert Wording(templates=("{}", "old {}"), dropout=0.5, draws=5).count == 10


def test_the_first_tags_stay_and_the_others_come_in_any_order():
    tags = "fox, snow, red, night, moon"
    found = Wording(keep_tags=2, draws=400).wordings(tags)
    assert found[0] == tags
    orders = Counter(found[1:])
    assert len(orders) == 6  # of the last three
    assert all(
        words.startswith("fox, snow, ") and sorted(words.split(", ")) == sorted(tags.split(", ")) for words in orders
    )
    # Each of six in 399 draws: 66.5 expected, with a deviation of 7.4.
    assert all(36 < count < 97 for count in orders.values())
    assert found == Wording(keep_tags=2, draws=400).wordings(tags)


def test_each_tag_but_the_first_is_left_out_with_its_probability():
    found = Wording(dropout=0.25, draws=2001).wordings("fox, snow, red, night")[1:]
    for tag, share in (("fox", 1.0), ("snow", 0.75), ("red", 0.75), ("night", 0.75)):
        assert sum(tag in words.split(", ") for words in found) / 2000 == pytest.approx(share, abs=0.04)
    assert all(words == "fox" or words.startswith("fox, ") for words in found)


def test_without_commas_words_are_left_out_and_one_is_left():
    found = Wording(dropout=0.9, draws=300).wordings("a fox in snow")
    assert all(words.split()[0] == "a" for words in found)
    assert "a" in found
    assert all(words for words in Wording(dropout=0.9, keep_tags=0, draws=300).wordings("fox, snow"))


def test_sentences_are_not_shuffled():
    assert set(Wording(keep_tags=0, draws=20).wordings("a fox in the snow")) == {"a fox in the snow"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"templates": ("no place",)}, "template: 'no place' given, must have one {}"),
        ({"templates": ("{} and {}",)}, "template"),
        ({"keep_tags": -1}, "keep_tags: -1 given"),
        ({"dropout": 1.0}, "word_dropout: 1.0 given"),
        ({"draws": 0}, "wordings: 0 given"),
        ({"trigger": "  "}, "trigger: '  ' given, allowed are words"),
    ],
)
def test_a_setting_out_of_range_is_named(given, named: str):
    with pytest.raises(PochadeError) as error:
        Wording(**given)
    assert named in str(error.value)


def test_what_is_drawn_is_encoded_cached_or_not(tmp_path: Path):
    """Every wording is drawn, with its own vectors, and the same one by the same key from a cache and without."""
    data = Captioned(captioned(), Wording("by me", dropout=0.5, draws=4))
    assert len(data) == len(captioned())
    stored = cache_latents(data, 8, Counting().encoders, tmp_path, progress=False)
    direct = encode_on_the_fly(data, 8, Counting().encoders)
    indices = torch.arange(len(stored)).repeat(40)
    keys = sample_keys(5, torch.arange(len(indices)))
    one, other = stored.batch(indices, keys), direct.batch(indices, keys)
    for name in ("latents", "tokens", "mask", "pooled"):
        assert torch.equal(one[name], other[name])
    words = stored.of_pictures(stored.groups.draw(indices, keys), keys, words=True)["caption"]
    wordings = {w for i in range(len(data)) for w in data.item(i).captions}
    assert set(words) == wordings
    text = Counting().encoders.encode_text
    assert text is not None
    assert torch.equal(text(list(words)).pooled.half().float(), one["pooled"])


def test_a_cache_of_other_wordings_is_another(tmp_path: Path):
    counting = Counting()
    for wording in (Wording("by me"), Wording("by me"), Wording("by you")):
        cache_latents(Captioned(captioned(), wording), 8, counting.encoders, tmp_path, progress=False)
    plain, mine, yours = (
        captioned(),
        Captioned(captioned(), Wording("by me")),
        Captioned(captioned(), Wording("by you")),
    )
    assert len({plain.fingerprint(), mine.fingerprint(), yours.fingerprint()}) == 3
    assert [mine.item(i).group for i in range(len(mine))] == [plain.item(i).group for i in range(len(plain))]


def test_classes_have_no_wordings():
    with pytest.raises(PochadeError, match="captions:FOLDER"):
        Captioned(labelled(), Wording("by me"))


def pictures(folder: Path, captions: list[str]) -> Path:
    for number, caption in enumerate(captions):
        place = folder / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(place)
        place.with_suffix(".txt").write_text(caption)
    return folder


def test_settings_of_the_data_reach_the_captions(tmp_path: Path):
    source = FolderSource(pictures(tmp_path / "in", ["a fox", "blue, an owl"]))
    given = {"size": 8, "held_out": False}
    assert ImageData(source, **given).open().item(0).captions == ("a fox",)
    data = ImageData(source, trigger="blue", template="{}|a drawing of {}", **given).open()
    assert data.item(0).captions == ("blue, a fox", "blue, a drawing of a fox")
    assert data.item(1).captions == ("blue, an owl", "a drawing of blue, an owl")
    assert data.report is not None
    assert data.report.notes == {HAD_TRIGGER: 1}
    assert len(ImageData(source, word_dropout=0.1, **given).open().item(0).captions) == 8
    assert len(ImageData(source, keep_tags=1, wordings=3, **given).open().item(0).captions) == 3
    with pytest.raises(PochadeError, match=r"word_dropout: 2\.0 given"):
        ImageData(source, word_dropout=2.0, **given).open()


def test_names_of_folders_are_captions(tmp_path: Path):
    for folder in ("cats", "dogs"):
        for number in range(3):
            place = tmp_path / "classes" / folder / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(place)
    data = FolderSource(tmp_path / "classes", classes=False).open("all", reading=Reading(progress=False))
    assert [data.item(i).captions for i in (0, 5)] == [("cats",), ("dogs",)]
    assert len({data.item(i).group for i in range(6)}) == 6

    (tmp_path / "classes" / "dogs").rename(tmp_path / "dogs")
    (tmp_path / "classes" / "cats").rename(tmp_path / "classes" / "10_sks cat")
    with pytest.raises(PochadeError, match="'10_sks cat' is a caption for captions:FOLDER only"):
        FolderSource(tmp_path / "classes").open("all", progress=False)
    data = FolderSource(tmp_path / "classes", classes=False).open("all", progress=False)
    assert [data.item(i).captions for i in range(3)] == [("sks cat",)] * 3
    assert data.report is not None
    assert list(data.report.notes) == ["folder whose name is a caption and whose number of repetitions is not"]
