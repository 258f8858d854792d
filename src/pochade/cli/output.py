"""Where the pictures of ``pochade generate`` go: files, a sheet, and what is printed of them."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pochade.cli.common import console, make_folder
from pochade.errors import PochadeError
from pochade.files import check_folder, check_here, write_new

if TYPE_CHECKING:
    from PIL import Image

    from pochade.cli.watch import Watch


@dataclass(frozen=True)
class Made:
    """A picture, and what becomes of it.

    Attributes:
        image: the picture.
        prompt: of it.
        facts: its request, as ``--json`` prints it.
        save: writes it into a folder; the path.
    """

    image: "Image.Image"
    prompt: str
    facts: dict[str, Any]
    save: Callable[[Path], Path]


@dataclass(frozen=True)
class Output:
    """What a user wants of pictures.

    Attributes:
        out: the folder.
        single: whether each picture gets a file.
        sheet: the file that has all of them.
        preview: whether they are shown as they form.
        as_json: whether what was written is printed as JSON, and not by its path.
    """

    out: Path
    single: bool
    sheet: Path | None
    preview: bool
    as_json: bool

    def check(self) -> None:
        """Raises PochadeError where something stands in the way; creates nothing."""
        out = self.out if self.single or self.preview else None
        if out is not None and out.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}:
            raise PochadeError(f"out: {str(out)!r} given, allowed is a folder: pictures are named by prompt and seed")
        if self.sheet is not None and (self.sheet.suffix.lower() != ".png" or self.sheet.is_dir()):
            raise PochadeError(f"sheet: {str(self.sheet)!r} given, allowed is a file that ends in .png")
        if self.sheet is not None:
            check_here("sheet", self.sheet)
            check_folder("sheet", self.sheet.parent)
        if out is not None:
            check_folder("out", out)

    def make(self, count: int, sample: "Callable[[int, Watch], Made]", files: list[dict[str, Any]]) -> None:
        """Pictures one after the other, each written when it is there, then the sheet.

        Args:
            count: of pictures.
            sample: picture i, which calls the watch at its beginning and after its steps.
            files: gets an entry for each file.

        Raises:
            PochadeError: a folder cannot be written to.
        """
        from pochade.cli.watch import Watch

        folders = [self.out] * (self.single or self.preview) + [
            sheet.parent for sheet in [self.sheet] if sheet is not None
        ]
        for folder in folders:
            make_folder(folder)
        done: list[Made] = []  # for the sheet
        with Watch(self.preview, count, self.out, console(stderr=True)) as watch:
            for i in range(count):
                made = sample(i, watch)
                if self.sheet is not None:
                    done.append(made)
                if self.single:
                    path = made.save(self.out)
                    files.append({"file": str(path), **made.facts})
                    if not self.as_json:
                        watch.print(str(path))
        if self.sheet is not None:
            page = _sheet([made.image for made in done], [made.prompt for made in done])
            path = write_new(self.sheet.parent, self.sheet.stem, self.sheet.suffix, lambda file: file.write(page))
            self.add(files, {"file": str(path), "pictures": [made.facts for made in done]})

    def add(self, files: list[dict[str, Any]], file: dict[str, Any]) -> None:
        """A file was written besides the pictures."""
        files.append(file)
        if not self.as_json:
            print(file["file"])


def _sheet(images: "list[Image.Image]", prompts: list[str]) -> bytes:
    """All pictures with their prompts, as a PNG."""
    from pochade.images.sheets import sheet

    width = images[0].width
    cell = width * max(1, round(128 / width))
    columns = min(6, len(images), max(3, round(len(images) ** 0.5)))
    page = BytesIO()
    sheet(images, prompts, columns=columns, cell=cell).save(page, format="PNG")
    return page.getvalue()
