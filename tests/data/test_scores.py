import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from cli.run import cli
from pochade.data.scores import SIDE, colourfulness, contrast, keep_best, score, scorer
from pochade.data.sources import FolderSource, open_source
from pochade.errors import PochadeError
from pochade.training.data import ImageData


def plain(*colour: int) -> np.ndarray:
    return np.full((8, 8, 3), colour, dtype=np.uint8)


def test_a_grey_picture_has_no_colour_and_a_plain_one_no_contrast():
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None] * 30, (8, 8, 3))
    assert colourfulness(ramp) == 0
    assert contrast(ramp) > 0
    assert contrast(plain(10, 200, 30)) == pytest.approx(0, abs=1e-9)
    assert score(Image.fromarray(plain(128, 128, 128))) == pytest.approx(0, abs=1e-9)


def test_the_formulas():
    halves = np.concatenate((plain(255, 0, 0), plain(0, 0, 255)))
    one, other = np.array([255.0, 0.0]), np.array([127.5, -255.0])
    expected = np.hypot(one.std(), other.std()) + 0.3 * np.hypot(one.mean(), other.mean())
    assert colourfulness(halves) == pytest.approx(expected)
    black_and_white = np.concatenate((plain(0, 0, 0), plain(255, 255, 255)))
    assert contrast(black_and_white) == pytest.approx(127.5)
    assert score(Image.fromarray(halves)) > score(Image.fromarray(black_and_white)) > 0.99


def folder(path: Path) -> Path:
    for i in range(10):
        image = Image.new("RGB", (64, 64), "grey")
        image.paste((25 * i, 0, 0), (0, 0, 32, 64))
        image.save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"red {i}")
    return path


def test_the_best_of_a_folder(tmp_path: Path):
    whole = open_source(folder(tmp_path), "all")
    data = keep_best(whole, 0.3)
    scores = [score(whole.image(i, SIDE)) for i in range(10)]
    best = sorted(sorted(range(10), key=lambda i: -scores[i])[:3])
    assert [data.item(i) for i in range(len(data))] == [whole.item(i) for i in best]
    assert keep_best(whole, 1) is whole


def test_the_best_of_classes_keep_them():
    data = keep_best(open_source("synthetic:20:classes=3", "all"), 0.5)
    assert (len(data), len(data.classes)) == (10, 3)


def test_wrong_shares():
    for fraction in (0.0, 1.5, -1.0):
        with pytest.raises(PochadeError, match="best: "):
            keep_best(open_source("synthetic:4", "all"), fraction)


def scored(path: Path) -> Path:
    """Ten equal pictures, of which every third has a number, as text in the last."""
    path.mkdir()
    lines: list[str] = []
    for i in range(10):
        Image.new("RGB", (16, 16), (9 * i, 90, 200)).save(path / f"{i}.png")
        number = {} if i % 3 else {"Aesthetic": str(i) if i == 9 else i, "width": 16}
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"blue {i}", "flag": True, **number}))
    (path / "metadata.jsonl").write_text("\n".join(lines))
    return path


def test_the_best_by_a_stored_number(tmp_path: Path):
    whole = open_source(scored(tmp_path / "scored"), "all", progress=False)
    assert whole.item(3).scores == (("aesthetic", 3.0), ("width", 16.0))
    assert whole.item(1).scores == ()
    best = keep_best(whole, 0.3, "column:Aesthetic")
    assert [best.item(i).captions[0] for i in range(len(best))] == ["blue 3", "blue 6", "blue 9"]
    with pytest.raises(PochadeError, match=r"'column:beauty' given, but no .* name; stored are aesthetic, width"):
        keep_best(whole, 0.3, "column:beauty")


def test_numbers_go_with_the_pictures_into_shards_and_on(tmp_path: Path, capsys: Any):
    source = scored(tmp_path / "scored")
    cli(
        capsys,
        "data",
        "prepare",
        "folder",
        "--path",
        str(source),
        "--size",
        "16",
        "--split",
        "all",
        str(tmp_path / "shards"),
    )
    shards = open_source(tmp_path / "shards", "all", progress=False)
    found = {shards.item(i).captions[0]: dict(shards.item(i).scores) for i in range(len(shards))}
    assert found == {f"blue {i}": {} if i % 3 else {"aesthetic": i, "width": 16} for i in range(10)}
    again = open_source(tmp_path / "shards", "all", progress=False)  # what is remembered of them
    assert [again.item(i).scores for i in range(10)] == [shards.item(i).scores for i in range(10)]

    # The same filter in a stage of training and where shards are chosen.
    data = ImageData(FolderSource(tmp_path / "shards"), 16, held_out=False, best=0.2, score="column:aesthetic")
    kept = data.open()
    assert {kept.item(i).captions[0] for i in range(len(kept))} == {"blue 6", "blue 9"}
    chosen = ("--size", "16", "--min-score", "6", "--score", "column:aesthetic")
    cli(capsys, "data", "prepare", "folder", "--path", str(tmp_path / "shards"), *chosen, str(tmp_path / "chosen"))
    curated = open_source(tmp_path / "chosen", "all", progress=False)
    assert {curated.item(i).captions[0] for i in range(len(curated))} == {"blue 6", "blue 9"}
    found = {curated.item(i).captions[0]: dict(curated.item(i).scores) for i in range(len(curated))}
    assert found == {f"blue {i}": {"aesthetic": i, "width": 16} for i in (6, 9)}  # the number by its own name, once


def predictor(folder: Path, *classes: str) -> str:
    """A network of random weights."""
    torch.manual_seed(0)
    one = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**one, image_size=16, patch_size=8, id2label=dict(enumerate(classes)))
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore")  # of transformers
def test_the_best_by_a_predictor(tmp_path: Path):
    whole = open_source(scored(tmp_path / "scored"), "all", progress=False)
    name = predictor(tmp_path / "predictor", "plain", "Aesthetic")
    rate = scorer(name)
    scores = [rate((), partial(whole.image, i)) for i in range(len(whole))]
    assert len(set(scores)) > 1
    assert all(0 < one < 1 for one in scores)
    best = keep_best(whole, 0.1, name)
    assert best.item(0) == whole.item(max(range(10), key=lambda i: scores[i]))
    with pytest.raises(PochadeError, match="has the classes cat, dog, one called 'aesthetic' is needed"):
        scorer(predictor(tmp_path / "other", "cat", "dog"))


def test_a_score_without_a_share(tmp_path: Path):
    with pytest.raises(PochadeError, match=r"data.score: contrast given without data.best"):
        ImageData(FolderSource(scored(tmp_path / "scored")), 16, score="contrast").open()
    with pytest.raises(PochadeError, match=r"data.score: 'column:no' given, but no picture"):
        ImageData(FolderSource(tmp_path / "scored"), 16, held_out=False, best=0.5, score="column:no").open()
