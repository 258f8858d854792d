"""The cache of a teacher's velocities: its inputs, what is kept, and what is computed again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.cache.toys import Counting
from data.memory import MemoryDataset, captioned, labelled
from pochade.data.cache.latents import CachedLatents, cache_latents
from pochade.data.cache.velocities import CachedVelocities, cache_velocities, record_keys
from pochade.errors import FailureError, PochadeError
from pochade.nn.keyed_random import sample_keys

RECORDS = 3


def latents_of(folder: Path, dataset: MemoryDataset | None = None, text: bool = True) -> CachedLatents:
    dataset = captioned() if dataset is None else dataset
    return cache_latents(dataset, 8, Counting(text).encoders, folder, progress=False)


class Teacher:
    """A velocity that depends on the picture, the key and the caption; counts the samples it is called with."""

    def __init__(self) -> None:
        self.samples = 0

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        self.samples += len(batch["seed"])
        words = batch["caption"] if "caption" in batch else [str(label) for label in batch["class_label"].tolist()]
        offset = [key % 97 + 0.125 * len(word) for key, word in zip(batch["seed"].tolist(), words, strict=True)]
        return batch["latents"] + torch.tensor(offset)[:, None, None, None]


def velocities(folder: Path, latents: CachedLatents, teacher: Teacher | None = None, **options) -> CachedVelocities:
    options = {"records": RECORDS, "identity": "teacher"} | options
    return cache_velocities(latents, teacher or Teacher(), folder=folder, progress=False, **options)


@pytest.mark.parametrize("text", [True, False])
def test_every_sample_has_the_velocity_of_its_own_inputs(tmp_path: Path, text: bool) -> None:
    latents, dataset = latents_of(tmp_path, text=text), captioned()
    data = velocities(tmp_path, latents)
    assert (len(data), data.records) == (len(latents), RECORDS)
    for index in range(len(data)):
        batch: dict[str, Any] = data.batch(torch.full((60,), index), sample_keys(index, torch.arange(60)))
        pictures = [int(name.removeprefix("picture ")) for name in batch["name"]]
        words = batch["mask"].sum(1).tolist() if text else [len(caption.split()) for caption in batch["caption"]]
        captions = [
            next(c for c in dataset.item(picture).captions if len(c.split()) == count)
            for picture, count in zip(pictures, words, strict=True)
        ]
        inputs: dict[str, Any] = {"latents": batch["latents"], "seed": batch["record_seed"], "caption": captions}
        torch.testing.assert_close(batch["teacher_velocity"], Teacher()(inputs).half().float())
        assert batch["teacher_velocity"].dtype == torch.float32
        seen = {*zip(pictures, batch["record_seed"].tolist(), strict=True)}
        every = torch.tensor(sorted({*pictures})).repeat_interleave(RECORDS)
        keys = record_keys(latents, every, torch.arange(RECORDS).repeat(len({*pictures})))
        assert seen == {*zip(every.tolist(), keys.tolist(), strict=True)}


def test_the_students_form_of_the_text_does_not_change_the_inputs(tmp_path: Path) -> None:
    """Words or vectors in the cache of latents: the same captions, the same velocities, one cache."""
    velocities(tmp_path, latents_of(tmp_path))
    teacher = Teacher()
    velocities(tmp_path, latents_of(tmp_path, text=False), teacher)
    assert teacher.samples == 0


def test_classes(tmp_path: Path) -> None:
    data = velocities(tmp_path, latents_of(tmp_path, labelled()), records=1)
    batch: dict[str, Any] = data.batch(torch.full((20,), 2), sample_keys(0, torch.arange(20)))
    assert {*batch} == {"latents", "name", "class_label", "record_seed", "teacher_velocity"}
    offset = (batch["record_seed"] % 97 + 0.125)[:, None, None, None]
    torch.testing.assert_close(batch["teacher_velocity"], (batch["latents"] + offset).half().float())


def test_records_of_all_pictures_are_apart_and_do_not_depend_on_the_others(tmp_path: Path) -> None:
    latents = latents_of(tmp_path)
    pictures, records = torch.arange(11).repeat_interleave(200), torch.arange(200).repeat(11)
    keys = record_keys(latents, pictures, records)
    assert keys.unique().numel() == 2200
    assert int(keys.min()) >= 0
    fewer = latents_of(tmp_path, MemoryDataset(captioned().pictures[1:]))
    assert torch.equal(record_keys(fewer, pictures[:2000], records[:2000]), keys[200:])


def test_only_what_changed_is_computed_again(tmp_path: Path) -> None:
    velocities(tmp_path, latents_of(tmp_path))
    data = captioned()
    recaptioned = data.with_picture(4, replace(data.pictures[4], captions=("new words",)))
    for dataset, changed in (
        (data, 0),
        (data.repainted(3, (1, 2, 3)), 1),
        (recaptioned, 1),
        (MemoryDataset(data.pictures[2:]), 0),
    ):
        teacher = Teacher()
        found = velocities(tmp_path, latents_of(tmp_path, dataset), teacher)
        assert teacher.samples == changed * RECORDS
        assert len(found.cache) == len(dataset)
    for options in ({"identity": "other"}, {"records": 2}):
        teacher = Teacher()
        velocities(tmp_path, latents_of(tmp_path), teacher, **options)
        assert teacher.samples == 11 * options.get("records", RECORDS)


def test_what_cannot_be_cached(tmp_path: Path) -> None:
    latents = latents_of(tmp_path)
    with pytest.raises(PochadeError, match="records: 0 given, must be at least 1"):
        velocities(tmp_path, latents, records=0)

    class Wild(Teacher):
        def __call__(self, batch: dict[str, Any]) -> Tensor:
            return super().__call__(batch) * 1e6

    with pytest.raises(FailureError, match="teacher: its velocity is not finite for picture 0 to picture 10"):
        velocities(tmp_path / "wild", latents, Wild())
    assert not list((tmp_path / "wild").glob("*/*"))
