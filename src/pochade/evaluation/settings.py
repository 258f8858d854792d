"""Settings of an evaluation, and where its report may lie: checked before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path

from pochade.arguments import check_count, check_guidance, check_guidance_interval, is_whole, path_text, plain, shown
from pochade.data.dataset import Shape
from pochade.data.sources import Source, as_source, check_outside
from pochade.errors import PochadeError
from pochade.files import check_folder


@dataclass(frozen=True)
class Settings:
    """Settings of an evaluation. Raises PochadeError at construction for one that is out of range."""

    samples: int = 500
    """Captions of each split, one of each concept; all where there are fewer, which a warning says of other numbers
    than this one."""
    steps: int = 50
    guidance: float = 3.0
    seed: int = 0
    batch_size: int = 32
    clip: str | None = None
    """Folder or hub name of a CLIP model, for the CLIP score."""
    inception: str | None = None
    """TorchScript file of the Inception network, for FID and KID (Inception)."""
    size: int | Shape | None = None
    """Pixels a side, or width and height; None for those that the model was trained with."""
    depth: int | None = None
    """Iterations inside the denoiser; None as configured."""
    per_caption: int = 1
    """Pictures of each caption. Of n captions picture i is of caption i % n, so the first n are those of 1."""
    guidance_interval: tuple[float, float] | None = None
    """Times at which guidance applies; None for the model's own."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:  # which the report holds
            object.__setattr__(self, name, plain(getattr(self, name)))
        for name, least in (("samples", 2), ("steps", 1), ("batch_size", 1), ("seed", 0), ("per_caption", 1)):
            value = getattr(self, name)
            if not is_whole(value) or value < least:
                raise PochadeError(f"{name}: {shown(value)} given, allowed are {least} and more")
        for name in ("steps", "depth"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.size is not None:
            for side in self.size if isinstance(self.size, tuple) and len(self.size) == 2 else (self.size,):
                check_count("size", side)
        for name in ("clip", "inception"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, path_text(name, getattr(self, name)))
        if self.seed >= 2**63 - self.samples * self.per_caption:
            raise PochadeError(f"seed: {self.seed} given, allowed are 0 to 2^63 - 1 - samples * per_caption")
        if self.guidance is None:
            raise PochadeError("guidance: None given, allowed is a number")
        check_guidance("guidance", self.guidance)
        if self.guidance_interval is not None:
            check_guidance_interval(self.guidance_interval)


def check_out(folder: Path, data: Source | str | Path) -> None:
    """Raises PochadeError where ``folder`` cannot be written to, or lies in the data."""
    check_folder("out", folder)
    check_outside(folder, [as_source(data)])
