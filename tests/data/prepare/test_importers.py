"""The layouts of the two data sets, from files on the disk alone: no request to the hub."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pochade.data.prepare.importers import InstructPix2Pix, MagicBrush
from pochade.data.prepare.pairs import prepare_pairs
from pochade.data.prepare.target import Target
from pochade.data.sources.image_files import Reading
from pochade.data.sources.pairs import open_pairs
from pochade.data.sources.pairs.pair import Found, PairFiles
from pochade.errors import FailureError, PochadeError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def plain(value: int, other: int = 0) -> Image.Image:
    return Image.new("RGB", (16, 16), (value, other, 0))


def see_through() -> Image.Image:
    """A light picture whose left half is transparent, as MagicBrush's masks are."""
    image = Image.new("RGBA", (32, 32), (250, 250, 250, 255))
    image.paste((250, 250, 250, 0), (0, 0, 16, 32))
    return image


def seeds(folder: Path, prompts: int = 40) -> Path:
    for i in range(prompts):
        place = folder / f"{i:07d}"
        place.mkdir(parents=True)
        texts = {"input": f"a photo {i}", "edit": f"make it {i}", "output": f"a photo {i} made"}
        (place / "prompt.json").write_text(json.dumps(texts))
        (place / "metadata.jsonl").write_text("{}")
        for seed in (11, 2345):
            (place / f"{seed}_0.jpg").write_bytes(encoded(plain(4 * i), "JPEG"))
            (place / f"{seed}_1.jpg").write_bytes(encoded(plain(4 * i, 200), "JPEG"))
    listed = [[f"{i:07d}", ["11", "2345"]] for i in range(prompts)]
    (folder / "seeds.json").write_text(json.dumps(listed))
    return folder


def written(source: PairFiles, out: Path, max_skipped: float = 0.05, **target: Any) -> dict[str, Any]:
    reading = Reading(max_skipped=max_skipped)
    return prepare_pairs(source, Target(out=out, **{"size": 8, **target}), reading=reading, progress=False)


def found(candidates: Any) -> list[Found]:
    rows = list(candidates)
    assert all(isinstance(row, Found) for row in rows)
    return rows


@pytest.mark.parametrize("listed", [True, False])
def test_instructpix2pix_as_a_folder(tmp_path: Path, listed: bool):
    folder = seeds(tmp_path / "in", 3)
    if not listed:
        (folder / "seeds.json").unlink()
    rows = found(InstructPix2Pix(str(folder)).candidates())
    assert [row.name for row in rows][:3] == ["0000000/11", "0000000/2345", "0000001/11"]
    assert (rows[2].instructions, rows[2].group, rows[2].task) == (("make it 1",), "a photo 1", "edit")
    pair, _ = rows[2].load(8, "x", Reading())
    assert abs(np.asarray(pair.source, int)[0, 0] - [4, 0, 0]).max() < 4
    assert abs(np.asarray(pair.target, int)[0, 0] - [4, 200, 0]).max() < 4


def test_instructpix2pix_prepared(tmp_path: Path):
    folder = seeds(tmp_path / "in")
    (folder / "0000003" / "prompt.json").write_text("{")
    (folder / "0000004" / "11_1.jpg").unlink()
    report = written(InstructPix2Pix(str(folder)), tmp_path / "out", 0.1)
    assert sum(report["samples"].values()) == report["reading"]["used"] == 77
    assert report["reading"]["skipped_by_reason"] == {"unreadable": 1, "unreadable prompt.json": 1}
    train, held_out = (open_pairs(tmp_path / "out", 8, split) for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == (report["samples"]["train"], report["samples"]["held_out"])
    sides = [{data.pair(i).group for i in range(len(data))} for data in (train, held_out)]
    assert not sides[0] & sides[1]


def test_instructpix2pix_by_columns(tmp_path: Path):
    image, text = datasets.Image(), datasets.Value("string")
    names = ("original_prompt", "original_image", "edit_prompt", "edited_prompt", "edited_image")
    kinds = (text, image, text, text, image)
    files = [{"bytes": encoded(plain(i), "JPEG"), "path": None} for i in range(3)]
    others = [{"bytes": encoded(plain(i, 99), "JPEG"), "path": None} for i in range(3)]
    columns = (["a", "a", "b"], files, ["go 0", " ", "go 2"], ["x", "y", "z"], others)
    table = datasets.Dataset.from_dict(
        dict(zip(names, columns, strict=True)), features=datasets.Features(dict(zip(names, kinds, strict=True)))
    )
    table.to_parquet(tmp_path / "train.parquet")
    rows = list(InstructPix2Pix(str(tmp_path / "train.parquet")).candidates())
    assert [row.instructions if isinstance(row, Found) else row[1] for row in rows] == [
        ("go 0",),
        "no instruction",
        ("go 2",),
    ]
    assert isinstance(rows[0], Found)
    assert (rows[0].group, rows[0].name, rows[0].mask) == ("a", "row 0", None)
    pair, _ = rows[0].load(8, "go 0", Reading())
    assert abs(np.asarray(pair.target, int)[0, 0] - [0, 99, 0]).max() < 4
    # The smaller sample of the same data names the first column otherwise.
    renamed = table.rename_column("original_image", "input_image").remove_columns(["original_prompt", "edited_prompt"])
    renamed.to_parquet(tmp_path / "sample.parquet")
    rows = list(InstructPix2Pix(str(tmp_path / "sample.parquet")).candidates())
    assert isinstance(rows[2], Found)
    assert rows[2].group == "row 2"


def turns(folder: Path, images: int = 12) -> list[dict[str, str]]:
    rows = []
    for i in range(images):
        place = folder / "images" / str(100 + i)
        place.mkdir(parents=True)
        plain(i).save(place / f"{100 + i}-input.png")
        for turn in (1, 2):
            plain(i, 100 * turn).save(place / f"{100 + i}-output{turn}.png")
            see_through().save(place / f"{100 + i}-mask{turn}.png")
            before = "input" if turn == 1 else "output1"
            rows.append(
                {
                    "input": f"{100 + i}-{before}.png",
                    "mask": f"{100 + i}-mask{turn}.png",
                    "output": f"{100 + i}-output{turn}.png",
                    "instruction": f"step {turn} of {i}",
                }
            )
    return rows


@pytest.mark.parametrize("name", ["edit_turns.json", "edit_sessions.json"])
def test_magicbrush_as_a_folder(tmp_path: Path, name: str):
    rows = turns(tmp_path)
    sessions = {row["input"].partition("-")[0]: [] for row in rows}
    for row in rows:
        sessions[row["input"].partition("-")[0]].append(row)
    (tmp_path / name).write_text(json.dumps(rows if "turns" in name else sessions))
    pairs = found(MagicBrush(str(tmp_path)).candidates())
    assert len(pairs) == 24
    assert (pairs[3].instructions, pairs[3].group) == (("step 2 of 1",), "101")
    pair, _ = pairs[3].load(16, "x", Reading())
    assert np.asarray(pair.source)[0, 0].tolist() == [1, 100, 0]
    assert np.asarray(pair.target)[0, 0].tolist() == [1, 200, 0]
    # Where the mask's picture is transparent, not where it is light.
    expected = np.zeros((16, 16), np.uint8)
    expected[:, :8] = 255
    assert np.array_equal(np.asarray(pair.mask), expected)


def test_magicbrush_prepared_as_a_folder(tmp_path: Path):
    rows = turns(tmp_path / "in")
    rows[0] = {**rows[0], "output": "100-input.png"}
    del rows[5]["instruction"]
    (tmp_path / "in" / "edit_turns.json").write_text(json.dumps(rows))
    options: dict[str, Any] = {"split": "all", "format": "folder", "size": 16}
    report = written(MagicBrush(str(tmp_path / "in")), tmp_path / "out", 0.1, **options)
    assert report["reading"]["skipped_by_reason"] == {"no change": 1, "unreadable turn": 1}
    data = open_pairs(tmp_path / "out", 16, "all")
    assert len(data) == 22
    sample = data.sample(0, np.random.default_rng(0))
    assert sample["mask"].mean() == 0.5
    assert sample["instruction"] == "step 2 of 0"


def test_magicbrush_by_columns(tmp_path: Path):
    image, text = datasets.Image(), datasets.Value("string")
    kinds = {
        "img_id": text,
        "turn_index": datasets.Value("int32"),
        "source_img": image,
        "mask_img": image,
        "instruction": text,
        "target_img": image,
    }
    png = {"bytes": encoded(plain(1)), "path": None}
    white = see_through()
    white = Image.alpha_composite(Image.new("RGBA", white.size, "white"), white).convert("RGB")
    columns = {
        "img_id": ["7", "7", "8"],
        "turn_index": [1, 2, 1],
        "source_img": [png] * 3,
        "mask_img": [{"bytes": encoded(see_through()), "path": None}, None, {"bytes": encoded(white), "path": None}],
        "instruction": ["one", "two", "three"],
        "target_img": [{"bytes": encoded(plain(9)), "path": None}] * 3,
    }
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    table.to_parquet(tmp_path / "train.parquet")
    pairs = found(MagicBrush(str(tmp_path / "train.parquet")).candidates())
    assert [pair.group for pair in pairs] == ["7", "7", "8"]
    masks = [pair.load(16, "x", Reading())[0].mask for pair in pairs]
    assert masks[1] is None
    assert masks[0] is not None
    assert np.asarray(masks[0])[:, :8].all()
    assert not np.asarray(masks[0])[:, 8:].any()
    # Without its alpha the region is pure white, which (250, 250, 250) beside it is as well.
    assert masks[2] is not None
    assert np.asarray(masks[2])[:, :8].all()


def test_other_data_is_refused(tmp_path: Path):
    table = datasets.Dataset.from_dict({"text": ["a"]})
    table.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(PochadeError, match=r"has no column original_image or input_image, but text"):
        InstructPix2Pix(str(tmp_path / "x.parquet")).candidates()
    with pytest.raises(PochadeError, match=r"has no column source_img, but text"):
        MagicBrush(str(tmp_path / "x.parquet")).candidates()
    with pytest.raises(PochadeError, match=r"could not be opened by the library datasets"):
        written(MagicBrush("nobody/nothing"), tmp_path / "out")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "edit_turns.json").write_text("[")
    with pytest.raises(PochadeError, match=r"edit_turns.json: no JSON"):
        written(MagicBrush(str(tmp_path / "in")), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "x.parquet"]


def test_lists_do_not_lead_out_of_the_folder(tmp_path: Path):
    folder = seeds(tmp_path / "a", 1)
    (folder / "seeds.json").write_text(json.dumps([["../a/0000000", ["11"]]]))
    with pytest.raises(PochadeError, match=r"the folder '../a/0000000' leaves"):
        list(InstructPix2Pix(str(folder)).candidates())
    (folder / "seeds.json").write_text(json.dumps([["0000000", ["../../x"]]]))
    with pytest.raises(PochadeError, match=r"leaves the folder"):
        list(InstructPix2Pix(str(folder)).candidates())
    rows = turns(tmp_path / "b", 1)
    (tmp_path / "b" / "edit_turns.json").write_text(json.dumps([{**rows[0], "output": "../../../x.png"}]))
    with pytest.raises(PochadeError, match=r"leaves the folder"):
        list(MagicBrush(str(tmp_path / "b")).candidates())


def test_too_many_bad_pairs_end_the_work(tmp_path: Path):
    rows = turns(tmp_path / "in", 12)
    for path in (tmp_path / "in").rglob("*-output2.png"):
        path.write_bytes(b"broken")
    (tmp_path / "in" / "edit_turns.json").write_text(json.dumps(rows))
    with pytest.raises(FailureError, match=r"12 of 24 samples cannot be used"):
        written(MagicBrush(str(tmp_path / "in")), tmp_path / "out", split="all")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out-skipped.json"]
