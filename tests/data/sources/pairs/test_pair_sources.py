"""Text forms of sources of pairs, and what each opens to."""

from pathlib import Path

import pytest

from pochade.data.sources import OpenMojiSource, SyntheticSource
from pochade.data.sources.pairs import (
    OpenMojiPairSource,
    PicturePairSource,
    StoredPairSource,
    open_pairs,
    parse_pairs,
    read_kinds,
)
from pochade.data.sources.pairs.openmoji import EDITS
from pochade.data.sources.pairs.pair import PAIR_TASKS
from pochade.errors import PochadeError

FORMS = {
    "openmoji": OpenMojiPairSource(),
    "openmoji:recolour=2,mirror": OpenMojiPairSource((("recolour", 2.0), ("mirror", 1.0))),
    "pictures": PicturePairSource(),
    "pictures:synthetic:20": PicturePairSource(SyntheticSource(20)),
    "pairs/mine": StoredPairSource(Path("pairs/mine")),
    "./openmoji": StoredPairSource(Path("openmoji")),
}


@pytest.mark.parametrize("text", FORMS)
def test_every_source_has_a_text_form(text: str) -> None:
    assert parse_pairs(text) == FORMS[text]
    assert str(FORMS[text]) == text


@pytest.mark.parametrize("text", ["", "openmoji:", "pictures:", "openmoji:mirror=often", "pictures:openmoji:x"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(PochadeError, match=r"(pairs|kinds|source): .* given"):
        parse_pairs(text)


def test_kinds() -> None:
    assert read_kinds("inpaint, mirror = 0.5") == {"inpaint": 1.0, "mirror": 0.5}
    with pytest.raises(PochadeError, match=r"kinds: 'mirror=often' given"):
        read_kinds("inpaint,mirror=often")


def test_tasks_choose_the_kinds() -> None:
    assert open_pairs("openmoji", 16).tasks == PAIR_TASKS
    edits = open_pairs("openmoji", 16, tasks=["edit"])
    assert edits.tasks == ("edit",)
    assert {edits.pair(i).name.rpartition("-")[2] for i in range(60)} <= set(EDITS)
    with pytest.raises(PochadeError, match="kinds: mirror given, allowed for inpaint are inpaint"):
        open_pairs("openmoji:mirror", 16, tasks=["inpaint"])
    with pytest.raises(
        PochadeError, match="tasks: edit, inpaint given, but there are no pairs for inpaint in openmoji:mirror"
    ):
        open_pairs("openmoji:mirror", 16, tasks=["edit", "inpaint"])
    with pytest.raises(PochadeError, match="tasks: paint given, allowed are edit, inpaint, super_resolution"):
        open_pairs("openmoji", 16, tasks=["paint"])


def test_pictures_are_those_that_are_named_or_trained_on() -> None:
    pairs = open_pairs("pictures:synthetic:20", 16, "held_out", tasks=["inpaint"])
    assert (len(pairs), pairs.tasks) == (2, ("inpaint",))
    assert pairs.pair(0).group.startswith("synthetic 1 ")
    source = PicturePairSource().with_pictures(SyntheticSource(40))
    assert len(source.open(16, "all")) == 40
    assert source.with_pictures(OpenMojiSource()) == source
    assert OpenMojiPairSource().with_pictures(SyntheticSource(40)) == OpenMojiPairSource()
    with pytest.raises(PochadeError, match="pairs: pictures given, but no source"):
        open_pairs("pictures", 16)
    with pytest.raises(PochadeError, match="tasks: edit given, of any pictures can be made inpaint"):
        open_pairs("pictures:synthetic:20", 16, tasks=["edit"])


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match="is neither a folder nor a pattern"):
        open_pairs(tmp_path / "absent", 16)
    with pytest.raises(PochadeError, match="split: 'test'"):
        open_pairs("openmoji", 16, "test")  # type: ignore[arg-type]
