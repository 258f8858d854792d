import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli.run import cli
from pochade.data.dataset import is_held_out
from pochade.data.sources import FolderSource, PicturesSource
from pochade.errors import PochadeError
from pochade.evaluation.data_check import check_data, words_of
from pochade.text_encoders.bag import BagEncoder

LONG = "a very " + "long " * 40 + "caption"


def encoder() -> BagEncoder:
    return BagEncoder(BagEncoder.train_tokenizer(["a picture"], 300), dim=4, hidden_dim=4, max_tokens=32)


def folder_of_faults(place: Path) -> Path:
    """Eight pictures: three that look alike on both sides of the split, one broken, one wide, one small."""
    place.mkdir()
    rng = np.random.default_rng(0)
    names = [next(n for n in (f"thing {i}" for i in range(100)) if is_held_out(n) == held) for held in (False, True)]

    def add(name: str, caption: str | None, pixels: np.ndarray, size: tuple[int, int] = (64, 64)) -> None:
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        image.save(place / f"{name}.png")
        if caption is not None:
            (place / f"{name}.txt").write_text(caption)

    grids = [rng.integers(0, 256, (5, 5, 3), dtype=np.uint8) for _ in range(8)]
    add("a", names[0], grids[0])
    add("b", names[1], grids[0], (80, 80))
    add("c", "a red house", grids[1])
    add("d", "a red house", grids[2])
    add("e", LONG, grids[3], (128, 64))
    add("f", "a tiny thing, made up", grids[4], (16, 32))
    add("g", None, grids[5])
    (place / "h.png").write_bytes((place / "a.png").read_bytes()[:100])
    (place / "h.txt").write_text("cut short")
    return place


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_faults(tmp_path_factory.mktemp("data") / "faults")


class Blur(torch.nn.Module):
    """Gives back the mean of a picture, which a plain picture is."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3), keepdim=True)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.expand(-1, -1, 32, 32)


def test_everything_is_counted(faults: Path):
    check, dataset = check_data(FolderSource(faults), encoder(), 32, autoencoder=Blur(), model="blur", progress=False)
    assert (check.pictures, check.groups, len(dataset)) == (6, 5, 6)
    assert check.widths == [16, 64, 128]
    assert check.heights == [32, 64, 80]
    assert check.small == ["f.png"]
    assert {name: count for name, count in check.ratios.items() if count} == {"2:1": 1, "1:1": 4, "1:2": 1}
    pixels = 3 * 64 * 64 + 80 * 80 + 128 * 64 + 16 * 32
    assert check.cropped == pytest.approx(1 - (3 * 64 * 64 + 80 * 80 + 64 * 64 + 16 * 16) / pixels)
    captions = check.captions
    assert captions is not None
    assert captions.equal == [("a red house", 2)]
    assert [one.name for one in captions.too_long] == ["e.png"]
    assert captions.too_long[0].over == captions.too_long[0].tokens - 32 > 0
    assert {"tiny", "made", "up"} <= set(captions.once)
    assert "red" not in captions.once
    assert [(one.names, one.groups, one.apart, one.identical) for one in check.alike] == [
        (["a.png", "b.png"], 2, True, False)
    ]
    assert check.files is not None
    assert check.files["skipped_by_reason"] == {"corrupt or truncated": 1, "no caption": 1}
    assert check.reconstruction is not None
    values = [value for _, value in check.reconstruction.psnr]
    assert values == sorted(values)
    worst = check.reconstruction.psnr[0][0]
    image = next(dataset.image(i, 32) for i in range(6) if dataset.item(i).name == worst)
    exact = np.asarray(image, np.float64) / 127.5 - 1
    error = np.square(exact - exact.mean((0, 1))).mean()
    assert values[0] == pytest.approx(10 * np.log10(4 / error), abs=1e-3)


def test_what_is_to_be_mended_is_said(faults: Path):
    check, _ = check_data(FolderSource(faults), encoder(), 32, progress=False)
    problems = " | ".join(finding.text for finding in check.problems)
    assert "2 files cannot be used: 1 corrupt or truncated (h.png" in problems
    assert "that is more than the share 0.05" in problems
    assert "1 caption longer than the 32 tokens" in problems
    assert "in 1 set of pictures that look alike some are held out" in problems


def test_a_good_folder_has_no_problem(tmp_path: Path):
    rng = np.random.default_rng(1)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"a picture of number {i}")
    for name in ("Thumbs.db", "list.docx"):
        (tmp_path / name).write_text("x")
    check, _ = check_data(FolderSource(tmp_path), encoder(), 32, progress=False)
    assert check.problems == []
    texts = [finding.text for finding in check.findings]
    assert "file that is no picture, caption or list: 2 (Thumbs.db, list.docx)" in texts


def test_one_caption_for_all_is_a_problem(tmp_path: Path):
    for i in range(4):
        Image.new("RGB", (32, 32), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("a photo of sks dog")
    check, _ = check_data(FolderSource(tmp_path), encoder(), 32, progress=False)
    problems = " | ".join(finding.text for finding in check.problems)
    assert "of which an epoch shows one picture each" in problems
    assert "4 'a photo of sks dog'" in problems


def test_the_same_picture_all_over(tmp_path: Path):
    for i in range(5):
        Image.new("RGB", (32, 32), "teal").save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"thing {i}")
    check, _ = check_data(FolderSource(tmp_path), encoder(), 32, progress=False)
    assert [(len(one.names), one.identical) for one in check.alike] == [(5, True)]


def test_classes_and_drawn_pictures():
    from pochade.data.sources import SyntheticSource

    check, _ = check_data(SyntheticSource(12, ("cat", "dog")), None, 32, progress=False)
    assert sum(check.classes.values()) == 12
    assert (check.captions, check.widths, check.cropped) == (None, [], 0.0)


def test_names_of_files_are_no_captions(faults: Path):
    check, _ = check_data(PicturesSource(faults), encoder(), 32, progress=False)
    assert check.captions is None
    texts = [finding.text for finding in check.findings]
    assert "captions are not checked: 1 of 7 pictures have the names of their files" in texts
    assert not any("words" in text or "tokens" in text for text in texts)


def test_words():
    assert words_of(["A red-brown fox, 2 o'clock", "a FOX"]) == {"a", "red-brown", "fox", "2", "o'clock"}


@pytest.mark.parametrize(
    ("deviation", "problem", "said"),
    [
        (0.3, True, "train one on your own pictures first"),
        (0.15, False, "one of your own may keep more"),
        (0.05, False, ""),
    ],
)
def test_an_autoencoder_that_is_not_enough_is_said_with_what_trains_one(
    deviation: float, problem: bool, said: str, tmp_path: Path
):
    """An error of 0.3, 0.15 and 0.05 in pictures of [-1, 1] is a PSNR of 16.5, 22.5 and 32.0 dB."""
    folder = tmp_path / "my photographs"
    folder.mkdir()
    Image.new("RGB", (32, 32), "teal").save(folder / "1.png")

    class Off(Blur):
        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return super().decode(latents) + deviation

    source = PicturesSource(folder)
    check, _ = check_data(source, None, 32, autoencoder=Off(), model="off", progress=False)
    (finding,) = [one for one in check.findings if "autoencoder of off" in one.text]
    assert finding.problem == problem
    assert f"{-20 * np.log10(deviation / 2):.1f} dB" in finding.text
    assert said in finding.text
    assert (f"pochade train autoencoder data.source='pictures:{folder}'" in finding.text) == bool(said)


def test_any_autoencoder_is_measured_by_name(faults: Path, tmp_path: Path, capsys: Any):
    """One of diffusers, from a folder as its hub has it; what there is not is one line."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from contracts.families import DIFFUSERS

    theirs: Any = AutoencoderKL
    theirs(**DIFFUSERS["kl"]).save_pretrained(tmp_path / "kl")
    check = ("data", "check", f"pictures:{faults}", "--size", "32", "-o", str(tmp_path / "report"))
    cli(capsys, *check, "--autoencoder", str(tmp_path / "kl"), code=1)
    found = json.loads((tmp_path / "report" / "check.json").read_text())["reconstruction"]
    assert (found["model"], len(found["psnr"])) == (str(tmp_path / "kl"), 7)  # the picture without a caption as well
    error = cli(capsys, *check, "--overwrite", "--autoencoder", "nowhere", code=2).error
    assert "autoencoder: 'nowhere' is no folder and no hub name OWNER/NAME" in error
    assert "\n" not in error


def test_no_pictures_is_one_line(tmp_path: Path):
    with pytest.raises(PochadeError, match="holds no pictures"):
        check_data(FolderSource(tmp_path), encoder(), 32, progress=False)


def test_the_command(faults: Path, toy_pipeline_folder: Path, tmp_path: Path, capsys: Any):
    out = tmp_path / "report"
    arguments = ("data", "check", str(faults), "-o", str(out), "--model", str(toy_pipeline_folder))
    printed = cli(capsys, *arguments, code=1)
    assert "to mend: 2 files cannot be used" in printed.out
    assert printed.out.rstrip().endswith(str(out / "check.html"))
    found = json.loads((out / "check.json").read_text())
    assert found["size"] == 32
    assert [name for name, _ in found["reconstruction"]["psnr"]]
    page = (out / "check.html").read_text()
    assert "corrupt or truncated: " in page
    assert page.count('<img src="data:image/png;base64,') > 6
    assert "http" not in page
    assert "holds check.json, check.html already" in cli(capsys, *arguments, code=2).error
    for size, named in (("0", "1 to 8192"), ("9000", "1 to 8192"), ("33", "multiples of 8")):
        assert named in cli(capsys, *arguments, "--overwrite", "--size", size, code=2).error
    again = cli(capsys, *arguments, "--overwrite", "--json", code=1)
    assert json.loads(again.out) == found
