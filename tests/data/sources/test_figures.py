"""People in random poses: where their pose is, they are drawn."""

import numpy as np
import pytest

from pochade.data.sources import FiguresSource, open_source, parse_source
from pochade.errors import EmptySplitError, PochadeError
from pochade.images.poses import JOINTS, stick_figure


def test_a_figure_is_drawn_where_its_pose_is() -> None:
    data = open_source("figures:60", "all")
    raised = 0
    for index in range(len(data)):
        image, pose = (np.asarray(picture) for picture in (data.image(index, 64), data.control(index, 64, "pose")))
        limbs, drawn = pose.max(-1) > 128, image.min(-1) < 235
        assert limbs.sum() > 40
        assert not drawn[[0, -1]].any()  # all of it is in the picture
        assert not drawn[:, [0, -1]].any()
        assert (drawn | (image.min(-1) < 250))[limbs].mean() > 0.97
        raised += "arms raised" in data.item(index).captions[0]
    assert 3 < raised < 30
    other = np.asarray(data.control(1, 64, "pose"))
    assert (other != np.asarray(data.control(0, 64, "pose"))).any()
    with pytest.raises(PochadeError, match=r"task.kind: depth given, but '0' comes without"):
        data.control(0, 64, "depth")


def test_each_number_is_one_person_on_one_side() -> None:
    whole, train, held_out = (open_source("figures:20", split) for split in ("all", "train", "held_out"))
    assert (len(whole), len(train), len(held_out)) == (20, 18, 2)
    assert held_out.item(0) == whole.item(1)
    assert held_out.identity(0) == whole.identity(1)
    assert np.array_equal(np.asarray(held_out.image(0, 32)), np.asarray(whole.image(1, 32)))
    assert len({whole.identity(i) for i in range(20)}) == 20
    assert parse_source("figures:20") == FiguresSource(20)
    assert str(FiguresSource(20)) == "figures:20"
    with pytest.raises(EmptySplitError):
        open_source("figures:1", "held_out")
    for wrong in ("figures:0", "figures:x", "figures:"):
        with pytest.raises(PochadeError, match=r"^(figures|source): "):
            open_source(wrong)


def test_a_stick_figure_scales() -> None:
    joints = np.random.default_rng(0).uniform(0.1, 0.9, (len(JOINTS), 2))
    small = np.asarray(stick_figure(joints, 32), float)
    large = np.asarray(stick_figure(joints, 64), float).reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(small - large).mean() < 3
