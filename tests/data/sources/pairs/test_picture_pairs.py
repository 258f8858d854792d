"""Pairs made of any captioned pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pochade.data.sources import open_source
from pochade.data.sources.pairs.pair import HOLE
from pochade.data.sources.pairs.pictures import PicturePairs
from pochade.errors import FailureError, PochadeError

SIZE = 32


def made_of(folder: Path, *colours: str) -> PicturePairs:
    for colour in colours:
        image = Image.new("RGB", (SIZE, SIZE), "white")
        ImageDraw.Draw(image).polygon([(2, 2), (29, 9), (12, 28)], fill=colour)
        image.save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"a {colour} kite")
    return PicturePairs(open_source(folder, "all"), SIZE)


def test_holes_and_lost_detail(tmp_path: Path) -> None:
    data = made_of(tmp_path, "red", "green", "blue")
    assert len(data) == 3
    seen: set[str] = set()
    for seed in range(12):
        pair = data.pair(seed % 3, np.random.default_rng(seed))
        seen.add(pair.task)
        target, source = np.asarray(pair.target), np.asarray(pair.source)
        assert pair.instruction.startswith("a ")
        if pair.mask is None:
            assert pair.task == "super_resolution"
            assert (target != source).any()
        else:
            hidden = np.asarray(pair.mask) == 255
            assert (source[hidden] == HOLE[0]).all()
            assert (source[~hidden] == target[~hidden]).all()
    assert seen == {"inpaint", "super_resolution"}
    assert data.pair(1).source.tobytes() == data.pair(1).source.tobytes()
    assert data.sample(0, np.random.default_rng(0))["target"].shape == (3, SIZE, SIZE)


def test_what_no_pairs_can_be_made_of(tmp_path: Path) -> None:
    blank = made_of(tmp_path, "white")
    for seed in range(4):
        with pytest.raises(FailureError, match="no picture could be made a pair of in 200 tries"):
            blank.pair(0, np.random.default_rng(seed))
    for tasks in ((), ("inpaint", "edit")):
        with pytest.raises(PochadeError, match="of any pictures can be made inpaint, super_resolution"):
            PicturePairs(blank.dataset, SIZE, tasks)


def test_a_blank_picture_alone_is_replaced(tmp_path: Path) -> None:
    data = made_of(tmp_path, "red", "white")
    names = {data.pair(i, np.random.default_rng(seed)).name.partition(".")[0] for i in range(2) for seed in range(6)}
    assert names == {"red"}


def test_identities_are_of_the_picture_and_its_words(tmp_path: Path) -> None:
    data = made_of(tmp_path, "red", "green")
    assert data.identity(0) != data.identity(1)
    assert data.identity(0) != PicturePairs(data.dataset, SIZE, ("inpaint",)).identity(0)
    assert data.identity(0) != PicturePairs(data.dataset, 16).identity(0)
    (tmp_path / "green.txt").write_text("a kite")
    again = PicturePairs(open_source(tmp_path, "all"), SIZE)
    assert [again.identity(i) == data.identity(i) for i in range(2)] == [False, True]
