import pytest
import torch
from torch import Tensor

from pochade.errors import FailureError, PochadeError, missing_extra, nearest
from pochade.types import PARTS, Conditioning


def full(batch: int = 3) -> Conditioning:
    g = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=g)

    return Conditioning(
        tokens=noise(4, 5),
        mask=torch.ones(batch, 4, dtype=torch.bool),
        pooled=noise(6),
        class_label=torch.arange(batch) + 1,
        source=noise(2, 4, 4),
        source_mask=torch.ones(batch, 1, 4, 4),
        control=noise(1, 4, 4),
        image_prompt=noise(1, 7),
        image_prompt_scale=torch.full((batch,), 0.5),
        task=torch.arange(batch),
    )


DROPPED = {
    "text": {"tokens": 0, "mask": False, "pooled": 0},
    "class_label": {"class_label": -1},
    "source": {"source": 0, "source_mask": 0, "task": -1},
    "control": {"control": 0},
    "image_prompt": {"image_prompt": 0, "image_prompt_scale": 0},
}
NAMES = ("tokens", "mask", "pooled", "class_label", "source", "source_mask", "control", "task")
NAMES += ("image_prompt", "image_prompt_scale")


def test_the_table_of_parts_is_complete():
    assert set(DROPPED) == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_drop_empties_one_part_in_the_chosen_samples(part: str):
    given, chosen_samples = full(), torch.tensor([True, False, True])
    for chosen, dropped in ((None, given.drop(part)), (chosen_samples, given.drop(part, rows=chosen_samples))):
        where = torch.ones(3, dtype=torch.bool) if chosen is None else chosen
        for name in NAMES:
            before, after = getattr(given, name), getattr(dropped, name)
            assert after.shape == before.shape
            assert after.dtype == before.dtype
            if name in DROPPED[part]:
                assert after[where].eq(DROPPED[part][name]).all()
                assert torch.equal(after[~where], before[~where])
            else:
                assert torch.equal(after, before)


def test_drop_leaves_the_original_and_absent_parts_alone():
    given = full()
    kept = given.map(torch.clone)
    given.drop(*PARTS)
    assert all(torch.equal(getattr(given, n), getattr(kept, n)) for n in NAMES)
    assert Conditioning(pooled=torch.ones(2, 3)).drop(*PARTS).tokens is None
    assert Conditioning().drop(*PARTS) == Conditioning()
    with pytest.raises(ValueError, match=r"parts: \['colour'\] given"):
        given.drop("colour")


def test_cat_joins_samples_in_order_and_refuses_different_parts():
    a, b = full(2), full(3)
    both = Conditioning.cat([a, b])
    assert both.batch_size == 5
    for name in NAMES:
        assert torch.equal(getattr(both, name), torch.cat([getattr(a, name), getattr(b, name)]))
    with pytest.raises(ValueError, match="same parts"):
        Conditioning.cat([a, Conditioning(pooled=torch.ones(1, 6))])


def test_to_changes_floating_parts_alone():
    half = full().to(dtype=torch.float16)
    for name in NAMES:
        value = getattr(half, name)
        assert value.dtype == (
            torch.float16 if getattr(full(), name).is_floating_point() else getattr(full(), name).dtype
        )


def test_batch_size_without_any_part_is_unknown():
    assert Conditioning().batch_size is None
    assert Conditioning(task=torch.zeros(7)).batch_size == 7


def test_errors_by_who_can_correct_them():
    assert PochadeError("x").exit_code == 2
    assert FailureError("x").exit_code == 1
    assert issubclass(PochadeError, ValueError)
    assert nearest("stesp", ["steps", "seed", "width"]) == " (did you mean 'steps'?)"
    assert nearest("a8", ["a6", "a7_f16", "a8_width", "a8_channels"]) == " (did you mean 'a8_width' or 'a8_channels'?)"
    assert nearest("qqq", ["steps"]) == ""
    assert "pip install 'pochade[train]'" in str(missing_extra("accelerate", "train"))
