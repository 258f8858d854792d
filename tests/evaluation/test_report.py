"""The whole evaluation, on a folder of drawn pictures and a generator of known quality."""

import errno
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image, ImageDraw

from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.data.sources.image_files import Reading
from pochade.errors import FailureError, PochadeError
from pochade.evaluation.external import NOT_MEASURED
from pochade.evaluation.generation import PictureStore, fingerprint
from pochade.evaluation.pictures import empty_pictures, to_uint8
from pochade.evaluation.report import Report, evaluate
from pochade.evaluation.summary import table_of
from pochade.images.decode import fitted

SIZE = 32
COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = ("circle", "square", "cross", "bar", "ring", "corner", "frame", "dot", "stairs")


def draw(caption: str) -> Image.Image:
    colour, shape = caption.split()
    image = Image.new("RGB", (SIZE, SIZE), "white")
    pen = ImageDraw.Draw(image)
    match shape:
        case "circle":
            pen.ellipse((3, 3, 28, 28), fill=colour)
        case "square":
            pen.rectangle((5, 5, 26, 26), fill=colour)
        case "cross":
            pen.line((2, 2, 29, 29), fill=colour, width=5)
            pen.line((29, 2, 2, 29), fill=colour, width=5)
        case "bar":
            pen.rectangle((2, 12, 29, 19), fill=colour)
        case "ring":
            pen.ellipse((3, 3, 28, 28), outline=colour, width=4)
        case "corner":
            pen.polygon([(2, 2), (2, 29), (29, 29)], fill=colour)
        case "frame":
            pen.rectangle((3, 3, 28, 28), outline=colour, width=3)
        case "dot":
            pen.ellipse((12, 12, 19, 19), fill=colour)
        case _:
            for i in range(4):
                pen.rectangle((3 + 6 * i, 3 + 6 * i, 28, 8 + 6 * i), fill=colour)
    return image


class ToyPipeline:
    """A pipeline that draws what the caption names, or the mean colour of it; records the seeds of its calls."""

    def __init__(self, flat: bool = False) -> None:
        torch.manual_seed(0)
        autoencoder = TinyAutoencoder(
            latent_channels=4, width=8, encoder_blocks=(1, 1, 1, 1), decoder_blocks=(1, 1, 1, 1)
        )
        self.components = {"autoencoder": autoencoder.eval()}
        self.default_size = SIZE
        self.default_guidance_interval = (0.0, 1.0)
        self.name_or_path: str | None = None
        self.flat = flat
        self.seeds: list[int] = []
        self.stop_after: int | None = None

    def set_progress_bar_config(self, **options: Any) -> None:
        assert options.get("disable", True)

    def __call__(self, prompt: Sequence[str], **options: Any) -> ImagePipelineOutput:
        assert options["output_type"] == "pt"
        assert len(options["generator"]) == len(prompt)
        if self.stop_after is not None and len(self.seeds) >= self.stop_after:
            raise KeyboardInterrupt
        self.seeds += [g.initial_seed() for g in options["generator"]]
        images = torch.stack([to_uint8(draw(p)).float() / 255 for p in prompt])
        return ImagePipelineOutput(images.mean((2, 3), keepdim=True).expand_as(images) if self.flat else images)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawings")
    for caption in (f"{c} {s}" for c in COLOURS for s in SHAPES):
        draw(caption).save(folder / f"{caption}.png")
        (folder / f"{caption}.txt").write_text(caption)
    return folder


def run(pipe: ToyPipeline, data: Path | str, out: Path, **options: Any) -> Report:
    defaults: dict[str, Any] = {"samples": 20, "steps": 3, "guidance": 2.0, "seed": 5, "batch_size": 8}
    return evaluate(pipe, data, out=out, progress=False, **(defaults | options))


@pytest.fixture(scope="module")
def perfect(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, ToyPipeline]:
    pipe = ToyPipeline()
    return run(pipe, data, tmp_path_factory.mktemp("out") / "new"), pipe


def test_a_perfect_generator_measures_as_the_data(perfect: tuple[Report, ToyPipeline]) -> None:
    report, pipe = perfect
    figures = report.figures
    for split in ("train", "held_out"):
        found = figures[split]
        assert found["retrieval"]["generated"] == found["retrieval"]["real"]
        assert found["contrast"]["generated"] == found["contrast"]["real"]
        assert found["contrast"]["low"] is False
        assert found["kid_inception"] == found["fd_inception"] == found["clip_score"] == NOT_MEASURED
    assert figures["train"]["pictures"] == 20
    assert figures["train"]["copying"]["pixels"]["nearer"] == 1.0  # it draws the training pictures
    assert figures["held_out"]["copying"]["pixels"]["generated"]["minimum"] > 0
    assert figures["held_out"]["fd_lite0"] == pytest.approx(0, abs=1e-3)
    assert figures["autoencoder"]["train"]["pictures"] == 20
    assert {"psnr", "ssim", "perceptual"} <= figures["autoencoder"]["held_out"].keys()
    assert sorted(set(pipe.seeds)) == list(range(5, 25))


def test_files_are_complete(perfect: tuple[Report, ToyPipeline]) -> None:
    report, _ = perfect
    assert json.loads(report.json.read_text()) == report.figures
    page = report.page.read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    held_out = report.figures["held_out"]["pictures"]
    assert page.count("<img") == 3 * (20 + held_out) + 2 * (12 + min(12, held_out))
    for text in ("KID (Lite0)", "retrieval R@1", "kid_lite0"):
        assert text in page
    with Image.open(report.sheet) as sheet:
        assert sheet.width > 12 * 96
    assert not list(report.json.parent.rglob("*.tmp"))


def test_guidance_is_that_of_the_model_or_as_given(data: Path, tmp_path: Path) -> None:
    pipe = ToyPipeline()
    usual = fingerprint(pipe)
    pipe.default_guidance_interval = (0.4, 0.8)
    own = run(pipe, data, tmp_path / "own", samples=2)
    assert own.figures["settings"]["guidance_interval"] == [0.4, 0.8]
    assert own.figures["weights_sha256"] == fingerprint(pipe) != usual
    given = run(pipe, data, tmp_path / "given", samples=2, guidance_interval=(0.2, 1))
    assert given.figures["settings"]["guidance_interval"] == [0.2, 1]
    with pytest.raises(PochadeError, match=r"guidance_interval: 0\.5 given, allowed are two times"):
        run(pipe, data, tmp_path / "bad", guidance_interval=0.5)
    assert not (tmp_path / "bad").exists()


def test_every_figure_has_its_interval_in_the_table(perfect: tuple[Report, ToyPipeline]) -> None:
    figures = perfect[0].figures
    head, rows = table_of(figures)
    assert head == ["", "training concepts", "held-out concepts"]
    cells = {row[0]: row[1:] for row in rows}
    low, high = figures["train"]["intervals"]["R@1"]
    assert low <= figures["train"]["retrieval"]["generated"]["R@1"] <= high
    assert cells["retrieval R@1"][0].endswith(f"({low:.2f} to {high:.2f})")
    for label in (
        "KID (Lite0)",
        "FID-style distance (Lite0)",
        "autoencoder, PSNR in dB",
        "copies of a training picture",
    ):
        assert all(re.fullmatch(r"-?[\d.]+%? \(-?[\d.]+%? to -?[\d.]+%?\)", cell) for cell in cells[label]), label
    assert "CLIP score" not in cells


def test_copied_training_pictures_are_flagged(perfect: tuple[Report, ToyPipeline]) -> None:
    train, held_out = (perfect[0].figures[split]["copies"] for split in ("train", "held_out"))
    assert train["share"] == 1  # it draws the training pictures
    assert [row["distance"] for row in train["nearest"]] == [0] * 12
    assert all(row["copied"] and row["nearest"] == row["caption"] for row in train["nearest"])
    assert held_out["nearest"][0]["distance"] > 0
    assert held_out["share"] <= held_out["held_out"] + 0.5
    assert "0.00, a copy: " in perfect[0].page.read_text()


def test_a_generator_of_flat_pictures_is_worse_in_every_figure(
    data: Path, tmp_path: Path, perfect: tuple[Report, ToyPipeline]
) -> None:
    good_contrast = perfect[0].figures["train"]["contrast"]
    flat = run(ToyPipeline(flat=True), data, tmp_path).figures["train"]
    good = perfect[0].figures["train"]
    assert flat["contrast"]["low"] is True
    assert flat["contrast"]["groups"] == 20
    assert flat["contrast"]["low groups"] > 15
    assert flat["contrast"]["lowest"][0]["generated"]["std"] < 0.5 * flat["contrast"]["lowest"][0]["real"]["std"]
    assert good_contrast["low groups"] == 0
    assert flat["kid_lite0"] > 10 * abs(good["kid_lite0"])
    assert flat["fd_lite0"] > good["fd_lite0"]
    assert flat["retrieval"]["generated"]["R@1"] < flat["retrieval"]["real"]["R@1"]


def test_unusable_pictures_are_named_and_their_limit_can_be_set(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(data, mixed)
    for i in range(12):
        (mixed / f"broken {i}.png").write_bytes(b"")
        (mixed / f"broken {i}.txt").write_text(f"broken {i}")
    with pytest.raises(FailureError, match=r"12 of .* \(broken 0.png, .* and 2 more\)"):
        run(ToyPipeline(), mixed, tmp_path / "out")
    pipe = ToyPipeline()
    options: dict[str, Any] = {"samples": 4, "out": tmp_path / "out", "reading": Reading(max_skipped=0.5)}
    evaluate(pipe, mixed, **options)
    assert "12 skipped (12 empty file (broken 0.png, " in capsys.readouterr().err
    (settings,) = (tmp_path / "out" / "pictures").rglob("settings.json")
    assert json.loads(settings.read_text())["device"] == "cpu"  # another device makes others


def test_an_interrupted_evaluation_goes_on(data: Path, tmp_path: Path, perfect: tuple[Report, ToyPipeline]) -> None:
    pipe = ToyPipeline()
    pipe.stop_after = 8
    with pytest.raises(KeyboardInterrupt):
        run(pipe, data, tmp_path)
    assert not (tmp_path / "report.json").exists()
    again = ToyPipeline()
    figures = run(again, data, tmp_path).figures
    assert len(pipe.seeds) == 8
    assert len(pipe.seeds) + len(again.seeds) == len(perfect[1].seeds)
    assert figures["train"] == perfect[0].figures["train"]
    other = ToyPipeline()
    with pytest.raises(PochadeError, match=r"out: .* holds the report of .*; choose another folder"):
        run(other, data, tmp_path, steps=4)
    for name in ("report.json", "sheet.png"):
        (tmp_path / name).unlink()
        with pytest.raises(PochadeError, match=r"out: .* holds .*report\.html.* already, and no file is overwritten"):
            run(other, data, tmp_path, steps=4)
    (tmp_path / "report.html").unlink()
    run(other, data, tmp_path, steps=4)
    assert len(other.seeds) == len(perfect[1].seeds)  # other settings: other pictures


def test_further_pictures_of_a_caption_follow_those_that_are_there(data: Path, tmp_path: Path) -> None:
    once, more = ToyPipeline(), ToyPipeline()
    first = run(once, data, tmp_path, samples=6)
    (store,) = (tmp_path / "pictures").iterdir()
    before = {path.name for path in store.glob("*.png")}
    settings = json.loads(first.json.read_text())
    del settings["settings"]["per_caption"]  # a report of before there was more than one
    first.json.write_text(json.dumps(settings))
    run(once, data, tmp_path, samples=6)
    assert sorted(once.seeds) == sorted([*range(5, 11), *range(5, 5 + first.figures["held_out"]["pictures"])])
    with pytest.raises(PochadeError, match="of other weights, data or settings"):
        run(more, data, tmp_path, samples=6, per_caption=3)
    for path in (first.json, first.page, first.sheet):
        path.unlink()
    figures = run(more, data, tmp_path, samples=6, per_caption=3).figures
    made = {path.name for path in store.glob("*.png")}
    assert before < made
    assert len(more.seeds) == len(made - before) == 2 * len(before)
    places = PictureStore(tmp_path, json.loads((store / "settings.json").read_text()))
    for split in ("train", "held_out"):
        captions = [card.caption for card in first.cards[split]]
        assert figures[split]["pictures"] == 3 * len(captions)
        names = {places.path(captions[i % len(captions)], 5 + i).name for i in range(3 * len(captions))}
        assert names <= made
        # It draws each caption as in the data, thrice.
        found, alone = figures[split], first.figures[split]
        assert found["retrieval"]["generated"] == {**found["retrieval"]["real"], "pictures": 3 * len(captions)}
        assert found["contrast"]["groups"] == len(captions)
        for name in ("std", "range", "colour"):
            assert found["contrast"]["generated"][name] == pytest.approx(found["contrast"]["real"][name])
        assert found["contrast"]["low"] is False
        for name in ("R@1", "R@5", "copies"):  # as many captions are drawn again, whatever the pictures of each
            assert found["intervals"][name] == pytest.approx(alone["intervals"][name])
        assert found["copies"]["share"] == alone["copies"]["share"]


def test_fewer_captions_than_asked_for_are_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], perfect: tuple[Report, ToyPipeline]
) -> None:
    train, held_out = (perfect[0].figures[split]["real pictures"] for split in ("train", "held_out"))
    run(ToyPipeline(), data, tmp_path / "many", samples=len(COLOURS) * len(SHAPES))
    line = f"warning: samples: 54 given, but there are fewer captions: {train} of train, {held_out} of held_out; "
    assert capsys.readouterr().err == f"{line}per_caption makes several pictures of each\n"
    run(ToyPipeline(), data, tmp_path / "usual", samples=500)
    assert not capsys.readouterr().err


def test_as_many_real_pictures_are_read_as_are_made(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pochade.evaluation.report.MOST_REAL", 5)
    for samples, per_caption, real in ((4, 1, 5), (7, 1, 7), (4, 3, 12)):
        out = tmp_path / f"{samples} {per_caption}"
        train = run(ToyPipeline(), data, out, samples=samples, per_caption=per_caption).figures["train"]
        assert (train["pictures"], train["real pictures"]) == (samples * per_caption, real)


def test_many_pictures_lie_in_a_file_without_a_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, perfect: tuple[Report, ToyPipeline]
) -> None:
    monkeypatch.setattr("pochade.evaluation.pictures.IN_MEMORY", 0)
    figures = run(ToyPipeline(), data, tmp_path).figures
    assert figures["train"] == perfect[0].figures["train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "report.html", "report.json", "sheet.png"]
    empty = empty_pictures(3, (5, 4), tmp_path)
    assert empty.shape == (3, 3, 4, 5)
    empty[1] = 7
    assert empty.float().mean() == pytest.approx(7 / 3)


def test_a_full_disk_is_said_before_pictures_are_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pochade.evaluation.pictures.IN_MEMORY", 0)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    with pytest.raises(FailureError, match=r"out: could not be written \(No space left on device\)$"):
        run(ToyPipeline(), data, tmp_path / "out")


def test_a_folder_too_small_to_hold_out(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for caption in ("red circle", "blue dot"):
        draw(caption).save(data / f"{caption}.png")
        (data / f"{caption}.txt").write_text(caption)
    pipe = ToyPipeline()
    figures = run(pipe, data, tmp_path / "out").figures
    assert figures["held_out"].startswith("not measured")
    assert "copying" not in figures["train"]
    with pytest.raises(
        PochadeError, match=r"out: .*report lies in the data, .*data, allowed is a folder outside of it"
    ):
        run(pipe, data, data / "report")
    assert not (data / "report").exists()
    (data / "red circle.txt").write_text("red ball")
    made = len(pipe.seeds)
    with pytest.raises(PochadeError, match=r"out: .* holds the report of .*, of other weights, data or settings"):
        run(pipe, data, tmp_path / "out")
    assert len(pipe.seeds) == made


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"samples": 1},
            {"steps": 0},
            {"guidance": float("nan")},
            {"guidance": 5000.0},
            {"seed": -1},
            {"batch_size": 0},
            {"per_caption": 0},
            {"clip": "nowhere"},
        ),
        *(
            {"samples": "8"},
            {"steps": 1.5},
            {"guidance": None},
            {"seed": None},
            {"size": "64"},
            {"depth": 0},
            {"clip": 5},
            {"per_caption": 1.5},
            {"seed": 2**63 - 30, "samples": 10, "per_caption": 4},
        ),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_before_any_work(data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    pipe = ToyPipeline()
    with pytest.raises(PochadeError, match=f"^{next(iter(options))}:"):
        run(pipe, data, tmp_path / "out", **options)
    assert not pipe.seeds
    assert not (tmp_path / "out").exists()


def test_size_and_depth_reach_the_pipeline(data: Path, tmp_path: Path) -> None:
    given: list[dict[str, Any]] = []

    class Small(ToyPipeline):
        def __call__(self, prompt: Sequence[str], **options: Any) -> ImagePipelineOutput:
            given.append({k: options.get(k) for k in ("height", "width", "depth")})
            images: Any = super().__call__(prompt, **options).images
            return ImagePipelineOutput(torch.nn.functional.avg_pool2d(images, 2))

    report = run(Small(), data, tmp_path, samples=4, size=SIZE // 2, depth=3)
    assert given[0] == {"height": SIZE // 2, "width": SIZE // 2, "depth": 3}
    assert report.figures["settings"]["size"] == SIZE // 2
    assert report.figures["settings"]["depth"] == 3


def test_other_ratios_are_measured_beside_pictures_cropped_to_them(data: Path, tmp_path: Path) -> None:
    class Wide(ToyPipeline):
        def __call__(self, prompt: Sequence[str], **options: Any) -> ImagePipelineOutput:
            pictures = [fitted(draw(p), options["width"], options["height"]) for p in prompt]
            return ImagePipelineOutput(torch.stack([to_uint8(one).float() / 255 for one in pictures]))

    report = run(Wide(), data, tmp_path, samples=8, size=(64, 32))
    train = report.figures["train"]
    assert report.figures["settings"]["size"] == (64, 32)
    assert train["copying"]["pixels"]["generated"]["median"] == 0  # it draws the pictures of the data
    assert train["retrieval"]["generated"]["R@1"] == train["retrieval"]["real"]["R@1"]
    (one, *_) = (tmp_path / "pictures").rglob("*.png")
    with Image.open(one) as opened:
        assert opened.size == (64, 32)
    again = run(Wide(), data, tmp_path, samples=8, size=(64, 32))  # the report of the same evaluation is replaced
    assert again.figures["train"] == train


def test_unusable_data_and_output_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match=r"^source: .nowhere."):
        run(ToyPipeline(), "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(PochadeError, match=r"^out: '.*file' is a file, so '.*file/out' cannot be a folder$"):
        run(ToyPipeline(), data, tmp_path / "file" / "out")
