"""Text forms of sources, and what each opens to."""

from pathlib import Path

import numpy as np
import pytest

from pochade.data.dataset import Dataset
from pochade.data.sources import (
    CIFAR10Source,
    DrawingsSource,
    FiguresSource,
    FolderSource,
    JoinedSource,
    OpenClipArtSource,
    OpenMojiSource,
    PicturesSource,
    Source,
    SyntheticSource,
    numbered,
    open_source,
    parse_source,
)
from pochade.errors import EmptySplitError, PochadeError

FORMS = {
    "openmoji": OpenMojiSource(),
    "openmoji:groups": OpenMojiSource(groups=True),
    "pictures": FolderSource(Path("pictures")),
    "captions:pictures": FolderSource(Path("pictures"), classes=False),
    "pictures:pictures": PicturesSource(Path("pictures")),
    "classes:pictures": FolderSource(Path("pictures"), classes=True),
    "data/{000000..000012}.tar": FolderSource(Path("data/{000000..000012}.tar")),
    "./openmoji": FolderSource(Path("openmoji")),
    "./cifar10:x": FolderSource(Path("cifar10:x")),
    "c++": FolderSource(Path("c+")),
    "cifar10:a/cifar-10-python.tar.gz": CIFAR10Source(Path("a/cifar-10-python.tar.gz")),
    "openclipart:svg": OpenClipArtSource(Path("svg")),
    "drawings": DrawingsSource(),
    "drawings:sets": DrawingsSource(Path("sets")),
    "drawings:sets:sets=noto,game-icons": DrawingsSource(Path("sets"), ("noto", "game-icons")),
    "synthetic:64": SyntheticSource(64),
    "figures:64": FiguresSource(64),
    "synthetic:64:classes=10": SyntheticSource(64, numbered(10)),
    "synthetic:64:classes=cat,dog": SyntheticSource(64, ("cat", "dog")),
    "openmoji+c+++classes:d": JoinedSource((OpenMojiSource(), FolderSource(Path("c+")), FolderSource(Path("d"), True))),
}


@pytest.mark.parametrize("text", [t for t in FORMS if "+++" not in t])
def test_every_source_has_a_text_form(text: str) -> None:
    assert parse_source(text) == FORMS[text]
    assert str(FORMS[text]) == text


def test_joined_sources_are_separated_by_a_plus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = parse_source("openmoji + a/b+openmoji")
    assert joined == JoinedSource((OpenMojiSource(), FolderSource(Path("a/b")), OpenMojiSource()))
    assert parse_source(str(joined)) == joined
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a+b").mkdir()
    assert parse_source("a+b") == FolderSource(Path("a+b"))


@pytest.mark.parametrize(
    "text", ["", "openmoji:flags", "cifar10", "cifar10:", "synthetic", "synthetic:many", "synthetic:8:shapes=2", "a+"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(PochadeError, match=r"source: .* given"):
        parse_source(text)


@pytest.mark.parametrize("text", ["nowhere", "classes:nowhere", "openmoji+nowhere"])
def test_a_missing_source_is_an_error_when_it_is_opened(text: str) -> None:
    with pytest.raises(PochadeError, match=r"source: '(c\w+:)?nowhere' given, but nowhere is not there; allowed"):
        open_source(text)


@pytest.mark.parametrize("source", ["openmoji", "synthetic:40"])
def test_splits_are_two_sides_of_all_and_of_whole_groups(source: str) -> None:
    parts = {split: open_source(source, split) for split in ("train", "held_out", "all")}
    items = {split: [part.item(i) for i in range(len(part))] for split, part in parts.items()}
    names = {split: {item.name for item in these} for split, these in items.items()}
    assert names["train"] | names["held_out"] == names["all"]
    assert not {i.group for i in items["train"]} & {i.group for i in items["held_out"]}
    for split in ("train", "held_out"):
        assert {item.split for item in items[split]} == {split}
    assert 0.05 < len(names["held_out"]) / len(names["all"]) < 0.15
    assert len({part.fingerprint() for part in parts.values()}) == 3
    with pytest.raises(PochadeError, match="split: 'test' given"):
        open_source(source, "test")  # type: ignore[arg-type]


def check_contract(data: Dataset) -> None:
    """What every data set keeps to, on its first pictures."""
    names: set[str] = set()
    for index in range(min(5, len(data))):
        item, image = data.item(index), data.image(index, 24)
        assert image.mode == "RGB"
        assert image.size == (24, 24)
        assert image.tobytes() == data.image(index, 24).tobytes()
        assert data.image(index, 9).size == (9, 9)
        assert bool(item.captions) != (item.label is not None)
        assert (item.label is not None) == bool(data.classes)
        assert item.label is None or 0 <= item.label < len(data.classes)
        assert item.group
        assert item.split in ("train", "held_out")
        assert int(data.identity(index), 16) >= 0
        names.add(item.name)
    assert len(names) == min(5, len(data))
    chosen = [len(data) - 1, 0]
    part = data.subset(chosen)
    assert [part.item(i) for i in range(2)] == [data.item(i) for i in chosen]
    assert [part.identity(i) for i in range(2)] == [data.identity(i) for i in chosen]
    assert part.image(1, 24).tobytes() == data.image(0, 24).tobytes()
    assert part.classes == data.classes
    assert sorted(i for indices in data.groups().values() for i in indices) == list(range(len(data)))
    assert data.fingerprint() == data.fingerprint() != part.fingerprint() != data.subset(chosen[::-1]).fingerprint()


@pytest.mark.parametrize(
    "source",
    [
        OpenMojiSource(),
        OpenMojiSource(groups=True),
        SyntheticSource(30),
        SyntheticSource(30, numbered(4)),
        JoinedSource((SyntheticSource(20), OpenMojiSource())),
    ],
    ids=str,
)
def test_sources_keep_the_contract(source: Source) -> None:
    check_contract(source.open("held_out", progress=False))


def test_synthetic_pictures_are_made_of_their_number() -> None:
    few, many = open_source("synthetic:20", "all"), open_source("synthetic:40", "all")
    for index in (0, 7, 19):
        assert few.item(index) == many.item(index)
        assert few.image(index, 32).tobytes() == many.image(index, 32).tobytes()
    assert len({few.image(i, 16).tobytes() for i in range(20)}) == 20
    small, large = (np.asarray(few.image(3, size).resize((8, 8)), float) for size in (32, 64))
    assert np.abs(small - large).mean() < 8  # one picture at two sizes
    colour, shape = few.item(3).captions[0].split()[2:]
    assert few.item(3).captions == (f"synthetic 3 {colour} {shape}",)
    assert open_source("synthetic:2", "held_out").item(0).name == "1"
    with pytest.raises(EmptySplitError, match="split: 'held_out' of synthetic:1 is empty"):
        open_source("synthetic:1", "held_out")


def test_only_captioned_pictures_are_joined() -> None:
    with pytest.raises(PochadeError, match="only captioned pictures can be joined"):
        open_source("openmoji+openmoji:groups")


def test_a_source_named_twice_has_its_groups_twice() -> None:
    once, twice = open_source("synthetic:20"), open_source("synthetic:20+synthetic:20")
    assert len(twice.groups()) == 2 * len(once.groups())
    assert [twice.item(i + len(once)).captions for i in range(3)] == [once.item(i).captions for i in range(3)]
