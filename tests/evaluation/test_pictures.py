"""Splits of an evaluation: those of the data, whatever its form, less what the model was trained on."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image

from evaluation.test_report import COLOURS, SHAPES, SIZE, ToyPipeline, draw
from pochade.data.dataset import Dataset, Item, Split, Subset
from pochade.data.prepare.pictures import prepare
from pochade.data.prepare.target import Format, Target
from pochade.data.sources import OpenMojiSource, Source, open_source, parse_source
from pochade.data.sources.image_files import Reading
from pochade.data.sources.pairs import parse_pairs
from pochade.errors import PochadeError
from pochade.evaluation.pictures import ALL_TRAINED, NO_HELD_OUT, read_splits, to_uint8
from pochade.evaluation.report import NO_RECORD, Report, evaluate
from pochade.evaluation.training_data import Seen, TrainingData, read_training_data, seen_groups
from pochade.training.data import PairData


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawings")
    for caption in (f"{c} {s}" for c in COLOURS for s in SHAPES):
        draw(caption).save(folder / f"{caption}.png")
        (folder / f"{caption}.txt").write_text(caption)
    return folder


class Noise(ToyPipeline):
    """Uniform noise from the seed, whatever the prompt."""

    def __call__(self, prompt: Sequence[str], **options: Any) -> ImagePipelineOutput:
        images = torch.stack([torch.rand(3, SIZE, SIZE, generator=g) for g in options["generator"]])
        return ImagePipelineOutput(images)  # pyright: ignore[reportArgumentType]


def measured(data: Source | Path | str, out: Path, model: Path | None = None) -> Report:
    pipeline = Noise()
    pipeline.name_or_path = None if model is None else str(model)
    return evaluate(pipeline, data, samples=8, steps=1, guidance=1.0, out=out, progress=False)


def trained(folder: Path, source: object, held_out: bool, fingerprint: str = "", **more: Any) -> Path:
    """The folder of a model with a record of what it was trained on."""
    folder.mkdir(exist_ok=True)
    record = {"sources": [str(source)], "fingerprint": fingerprint, "held_out": held_out, "size": SIZE, **more}
    (folder / "training.json").write_text(json.dumps(record))
    return folder


@dataclass(frozen=True)
class Some(Source):
    """The drawings of OpenMoji with some codes."""

    codes: frozenset[str]

    def _open(self, split: Split, reading: Reading) -> Dataset:
        whole = OpenMojiSource().open(split, reading=reading)
        return whole.subset([i for i in range(len(whole)) if whole.item(i).name in self.codes])

    def __str__(self) -> str:
        return "some of openmoji"


def test_prepared_folders_and_shards_give_the_splits_and_figures_of_openmoji_itself(tmp_path: Path) -> None:
    itself = open_source("openmoji", "all")
    facts = {itself.item(i).name: (itself.item(i).group, itself.item(i).split) for i in range(len(itself))}
    reports: list[Report] = []
    forms: tuple[Format, ...] = ("folder", "shards")
    for form in forms:
        prepare(OpenMojiSource(), Target(out=tmp_path / form, size=SIZE, format=form, limit=40), progress=False)
        data = open_source(tmp_path / form, "all")
        found = {Path(data.item(i).name).stem: (data.item(i).group, data.item(i).split) for i in range(len(data))}
        assert {split for _, split in found.values()} == {"train", "held_out"}
        assert found == {code: facts[code] for code in found}
        reports.append(measured(tmp_path / form, tmp_path / f"{form}-report"))
        if form == "folder":
            reports.append(measured(Some(frozenset(found)), tmp_path / "report"))
    for split in ("train", "held_out", "real held-out beside real training pictures"):
        assert reports[0].figures[split] == reports[1].figures[split] == reports[2].figures[split]
    assert reports[0].figures["training"] == NO_RECORD


class Pairs(Subset):
    """Pictures of a data set, of which every fourth shows a style and a concept that training keeps apart."""

    def item(self, index: int) -> Item:
        item = super().item(index)
        return replace(item, split="composed") if item.split == "train" and index % 4 == 0 else item


@dataclass(frozen=True)
class PairSource(Source):
    composes = True
    path: Path

    def _open(self, split: Split, reading: Reading) -> Dataset:
        whole = open_source(self.path, "all", reading=reading)
        pairs = Pairs(whole, range(len(whole)))
        return pairs.subset([i for i in range(len(pairs)) if split in ("all", pairs.item(i).split)])

    def __str__(self) -> str:
        return "pairs"


def test_pairs_that_training_kept_apart_are_a_split_of_their_own(drawings: Path, tmp_path: Path) -> None:
    report = measured(PairSource(drawings), tmp_path / "out")
    whole = PairSource(drawings).open("all")
    expected = [whole.item(i).caption for i in range(len(whole)) if whole.item(i).split == "composed"]
    figures = report.figures["composed"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    assert figures["real pictures"] == len(expected) > 2
    assert figures["pictures"] == min(8, len(expected))
    splits = read_splits(whole, SIZE)
    assert splits.composed is not None
    assert sorted(splits.composed.captions) == sorted(expected)
    assert not set(expected) & set(splits.train.captions)
    seen = read_splits(whole, SIZE, seen=[whole.item(0).group])
    assert seen.composed is not None
    assert len(seen.composed) == len(expected) - (whole.item(0).split == "composed")


def test_one_picture_of_each_group(drawings: Path) -> None:
    splits = read_splits(open_source(drawings, "all"), SIZE)
    assert splits.held_out is not None
    assert len(splits.train) + len(splits.held_out) == len(COLOURS) * len(SHAPES)
    assert not set(splits.train.concepts) & set(splits.held_out.concepts)
    for image, caption in zip(splits.train.images, splits.train.captions, strict=True):
        assert torch.equal(image, to_uint8(draw(caption)))
    variants = read_splits(open_source("openmoji", "all"), 8)
    assert len(set(variants.train.concepts)) == len(variants.train)


def test_classes_are_prompts_and_concepts() -> None:
    splits = read_splits(open_source("synthetic:60:classes=cat,dog,fish", "all"), 8)
    assert splits.held_out is not None
    assert (len(splits.train), len(splits.held_out)) == (54, 6)  # many pictures of a class, all of which count
    assert set(splits.train.captions) == {"cat", "dog", "fish"}
    assert splits.train.concepts == splits.train.captions


def test_a_model_trained_on_all_has_no_held_out_figure(drawings: Path, tmp_path: Path) -> None:
    model = trained(tmp_path / "model", drawings, held_out=False)
    figures = measured(drawings, tmp_path / "out", model).figures
    assert figures["held_out"] == ALL_TRAINED
    assert figures["train"]["real pictures"] == len(COLOURS) * len(SHAPES)
    held_out = len(open_source(drawings, "held_out"))
    assert figures["training"] == {
        "data": [{"source": str(drawings), "held_out": False, "compared": True, "changed": False}],
        "held-out pictures that were trained on": held_out,
    }
    honest = measured(drawings, tmp_path / "out", trained(tmp_path / "model", drawings, held_out=True)).figures
    assert honest["held_out"]["real pictures"] == held_out
    assert honest["training"]["held-out pictures that were trained on"] == 0


def test_a_copy_that_is_split_anew_does_not_hold_out_what_was_trained_on(drawings: Path, tmp_path: Path) -> None:
    copy = open_source(drawings, "all")  # without a stored split: by the caption
    held_out = [copy.item(i).captions[0] for i in range(len(copy)) if copy.item(i).split == "held_out"]
    source, lines = tmp_path / "with splits", list[str]()
    source.mkdir()
    for path in drawings.glob("*.png"):
        Image.open(path).save(source / path.name)
        split = "held_out" if path.stem in held_out[:2] else "train"
        lines.append(json.dumps({"file_name": path.name, "text": path.stem, "split": split}))
    (source / "metadata.jsonl").write_text("\n".join(lines))
    seen = seen_groups(copy, [TrainingData(str(source), "", held_out=True)])
    splits = read_splits(copy, SIZE, seen=seen.groups)
    assert splits.held_out is not None
    assert sorted(splits.held_out.captions) == sorted(held_out[:2])
    assert splits.trained == len(held_out[2:]) > 0
    assert set(held_out[2:]) < set(splits.train.captions)


def test_data_that_is_gone_is_known_by_its_fingerprint(drawings: Path) -> None:
    data = open_source(drawings, "all")
    gone = TrainingData("/no/such/folder", data.fingerprint(), held_out=False)
    assert seen_groups(data, [gone]) == Seen(frozenset(data.groups()))
    other = TrainingData("/no/such/folder", "0" * 64, held_out=False)
    assert seen_groups(data, [other]) == Seen(frozenset(), ("/no/such/folder",))
    streamed = TrainingData("openmoji", "0" * 64, held_out=True, streamed=True)  # which would be read as a whole
    assert seen_groups(data, [streamed]) == Seen(frozenset(), ("openmoji",))


def test_data_that_changed_since_the_training_are_told(drawings: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(drawings, tmp_path / "copy"))
    record = TrainingData(str(folder), open_source(folder, "train").fingerprint(), held_out=True)
    assert seen_groups(open_source(folder, "all"), [record]).warnings() == []
    next(folder.glob("*.txt")).write_text("another caption, by which the picture may be on the other side")
    seen = seen_groups(open_source(folder, "all"), [record])
    doubt = "pictures that count as held out may have been trained on"
    assert seen.changed == (str(folder),)
    assert seen.warnings() == [f"{folder} was changed after the model was trained on it: {doubt}"]
    moved = folder.rename(tmp_path / "moved")
    seen = seen_groups(open_source(moved, "all"), [record])
    assert seen.warnings() == [f"the model was trained on {folder}, which is not here: {doubt}"]


def test_what_pairs_are_made_of_was_trained_on() -> None:
    pictures = parse_source("synthetic:8")
    assert PairData(source=pictures, pairs=parse_pairs("pictures")).sources == [pictures]
    assert PairData(source=None, pairs=parse_pairs("openmoji:mirror")).sources == [OpenMojiSource()]
    assert PairData(source=pictures, pairs=parse_pairs("openmoji")).sources == [pictures, OpenMojiSource()]
    assert PairData(source=pictures, pairs=parse_pairs("folder")).sources == [pictures]


def test_the_record_holds_what_earlier_stages_were_trained_on(tmp_path: Path) -> None:
    before = {"sources": ["cifar10:x"], "fingerprint": "1", "held_out": False, "size": 8, "before": None}
    model = trained(tmp_path, "openmoji", True, "2", before=before)
    assert read_training_data(model) == (
        TrainingData("openmoji", "2", held_out=True),
        TrainingData("cifar10:x", "1", held_out=False),
    )
    assert read_training_data(tmp_path / "none") == ()
    words = {"data": {"source": "openmoji", "trigger": "sks", "best": 1.0}}
    other = trained(tmp_path, "openmoji", True, "3", stage=words)  # of which the data as they are read know nothing
    assert read_training_data(other) == (TrainingData("openmoji", "", held_out=True),)
    (tmp_path / "training.json").write_text('{"sources": ["openmoji"]}')
    with pytest.raises(PochadeError, match=r"training.json: not a record of a training \(KeyError: 'fingerprint'\)"):
        read_training_data(tmp_path)


def test_too_little_data(drawings: Path) -> None:
    data = open_source(drawings, "all")
    with pytest.raises(PochadeError, match=r"^data: 1 training concepts given"):
        read_splits(data.subset([0]), SIZE)
    few = read_splits(data.subset([i for i in range(len(data)) if data.item(i).split == "train"]), SIZE)
    assert (few.held_out, few.why) == (None, NO_HELD_OUT)
