"""The cache of a teacher's answers: what is asked, what is kept, and how a build goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pochade.data.cache.velocities as module
from data.cache.test_latents import Pictures, build
from pochade.data.cache.latents import CachedLatents
from pochade.data.cache.velocities import CachedVelocities, build_velocities, record_draws
from pochade.data.dataset import Dataset
from pochade.errors import FailureError, PochadeError

RECORDS = 3


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 4)
    monkeypatch.setattr(module, "BATCH", 5)


@pytest.fixture
def latents(tmp_path: Path) -> CachedLatents:
    return build(tmp_path / "latents")


def spell(batch: dict[str, Any]) -> Tensor:
    """A velocity that tells the picture, the seed and the caption apart."""
    words = batch["caption"] if "caption" in batch else [str(int(label)) for label in batch["class_label"]]
    told = torch.tensor([(int(seed) % 97) + 0.125 * len(w) for seed, w in zip(batch["seed"], words, strict=True)])
    return batch["latents"] + told[:, None, None, None]


def drawn(data: Dataset, index: int, count: int = 60) -> list[dict[str, Any]]:
    return [data.sample(index, np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize("encoded", [True, False])
def test_every_sample_has_the_answer_to_its_own_question(tmp_path: Path, encoded: bool) -> None:
    latents = build(tmp_path / "latents", text=encoded)
    data = build_velocities(latents, spell, RECORDS, tmp_path / "teacher", progress=False)
    assert isinstance(data, Dataset)
    assert len(data) == len(latents)
    for index in range(len(data)):
        seen = set()
        for sample in drawn(data, index):
            words = int(sample["mask"].sum()) if encoded else len(sample["caption"].split())
            item, pictures = int(sample["name"]), Pictures()
            caption = next(c for c in pictures.captions(item) if len(c.split()) == words)
            batch = {
                "latents": sample["latents"][None],
                "seed": torch.tensor([sample["record_seed"]]),
                "caption": [caption],
            }
            torch.testing.assert_close(sample["teacher_velocity"], spell(batch)[0].half().float())
            assert sample["teacher_velocity"].dtype == torch.float32
            seen.add((item, sample["record_seed"]))
        pictures_of_group = {item for item, _ in seen}
        expected = {(item, record_draws(item, j)[0]) for item in pictures_of_group for j in range(RECORDS)}
        assert seen == expected


def test_the_students_form_of_the_text_changes_no_question(tmp_path: Path) -> None:
    """Words or vectors in the cache of latents: the same captions and the same answers."""
    parts: list[bytes] = []
    for encoded in (True, False):
        folder = tmp_path / str(encoded)
        build_velocities(build(folder / "latents", text=encoded), spell, RECORDS, folder / "teacher", progress=False)
        parts.append((folder / "teacher" / "part-00001.safetensors").read_bytes())
    assert parts[0] == parts[1]


def test_classes(tmp_path: Path) -> None:
    latents = build(tmp_path / "latents", Pictures(labelled=True), text=False)
    data = build_velocities(latents, spell, 1, tmp_path / "teacher", progress=False)
    for sample in drawn(data, 2, 20):
        assert set(sample) == {"latents", "name", "class_label", "record_seed", "teacher_velocity"}
        told = sample["record_seed"] % 97 + 0.125
        torch.testing.assert_close(sample["teacher_velocity"], (sample["latents"] + told).half().float())


def test_records_of_all_pictures_are_apart() -> None:
    seeds = {record_draws(item, record)[0] for item in range(200) for record in range(5)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert record_draws(3, 1)[0] == record_draws(3, 1)[0]


def test_a_build_that_was_cut_short_goes_on(latents: CachedLatents, tmp_path: Path) -> None:
    asked: list[int] = []

    def cut(batch: dict[str, Any]) -> Tensor:
        if len(asked) == 4:  # 12 records in a part of 4 pictures: 5, 5 and 2
            raise KeyboardInterrupt
        asked.append(len(batch["seed"]))
        return spell(batch)

    with pytest.raises(KeyboardInterrupt):
        build_velocities(latents, cut, RECORDS, tmp_path / "a", progress=False)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["part-00000.safetensors"]
    kept = (tmp_path / "a" / "part-00000.safetensors").stat().st_mtime_ns
    asked[:] = [0] * 5

    def count(batch: dict[str, Any]) -> Tensor:
        asked.append(len(batch["seed"]))
        return spell(batch)

    build_velocities(latents, count, RECORDS, tmp_path / "a", progress=False)
    assert sum(asked) == (latents.pictures - 4) * RECORDS
    assert (tmp_path / "a" / "part-00000.safetensors").stat().st_mtime_ns == kept
    build_velocities(latents, spell, RECORDS, tmp_path / "b", progress=False)
    names = sorted(p.name for p in (tmp_path / "b").iterdir())
    assert names == ["cache.json", *(f"part-0000{i}.safetensors" for i in range(3))]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    asked.clear()
    build_velocities(latents, count, RECORDS, tmp_path / "a", progress=False)
    assert asked == []


def test_a_damaged_part_is_named(latents: CachedLatents, tmp_path: Path) -> None:
    build_velocities(latents, spell, RECORDS, tmp_path / "a", progress=False)
    path = tmp_path / "a" / "part-00001.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:50], b"", whole[: len(whole) - 2]):
        path.write_bytes(damaged)
        with pytest.raises(PochadeError, match=r"part-00001\.safetensors: damaged"):
            CachedVelocities(latents, tmp_path / "a", 3)
    path.unlink()
    build_velocities(latents, spell, RECORDS, tmp_path / "a", progress=False)
    assert path.read_bytes() == whole


def test_what_cannot_be_cached(latents: CachedLatents, tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match="records: 0 given, must be at least 1"):
        build_velocities(latents, spell, 0, tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
    with pytest.raises(FailureError, match="teacher: its velocity is not finite for pictures 0 to 1"):
        build_velocities(latents, lambda batch: spell(batch) * 1e6, RECORDS, tmp_path / "a", progress=False)
    assert not list((tmp_path / "a").iterdir())
