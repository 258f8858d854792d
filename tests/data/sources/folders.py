"""Folders of small pictures with captions, and how tests open them."""

from pathlib import Path

from PIL import Image

from pochade.data.dataset import Split
from pochade.data.sources.folder import open_folder
from pochade.data.sources.image_files import ImageFiles, Reading


def save_picture(path: Path, colour: tuple[int, int, int] = (200, 100, 0), size: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


def fill(folder: Path, count: int) -> Path:
    for i in range(count):
        save_picture(folder / f"p{i:03d}.png", (i, 255 - i, 0))
        (folder / f"p{i:03d}.txt").write_text(f"picture {i}\n")
    return folder


def opened(path: Path, split: Split = "all", classes: bool | None = None, **limits: float) -> ImageFiles:
    return open_folder(path, split, classes=classes, reading=Reading(progress=False, **limits))


def names(data: ImageFiles) -> list[str]:
    return [data.picture(i).name for i in range(len(data))]


def reasons(data: ImageFiles) -> dict[str, str]:
    return {entry["name"]: entry["reason"] for entry in data.report.skipped}
