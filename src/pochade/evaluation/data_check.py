"""What is worth knowing of pictures and captions before an evening of training: counts, doubles, limits."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from shlex import quote
from typing import Any

import numpy as np
import torch

from pochade.data.dataset import Dataset
from pochade.data.near_duplicates import Fingerprint, alike, fingerprint
from pochade.data.progress import each, progress_bar
from pochade.data.report import FILE_NAMES, Report
from pochade.data.samples import decode
from pochade.data.sources import Source
from pochade.data.sources.image_files import Reading
from pochade.evaluation.reconstruction import Autoencoder, psnr
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.text_encoders.base import PromptEncoder

RATIOS = {"2:1": 2, "3:2": 3 / 2, "4:3": 4 / 3, "1:1": 1, "3:4": 3 / 4, "2:3": 2 / 3, "1:2": 1 / 2}
"""Width to height, by which pictures are counted."""
BEST = 60.0
"""PSNR in dB of a picture that is given back exactly."""
POOR = 20.0
"""PSNR in dB below which what an autoencoder gives back is visibly another picture."""
SOFT = 26.0
"""PSNR in dB below which fine structure is lost."""
RECIPE = "pochade train autoencoder data.source={}"
"""What trains an autoencoder on a source."""
LISTED = 100
"""Words, captions and sets that a list of the report has at most."""
_HASHED_SIDE = 64
"""Rows and columns of the pictures that are compared."""
_BATCH = 8
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class Finding:
    """Something to know before training; a problem is to be mended or meant."""

    text: str
    problem: bool


@dataclass(frozen=True)
class TooLong:
    """A caption that is longer than the text encoder reads."""

    name: str
    caption: str
    tokens: int
    over: int
    """Tokens that are not read."""


@dataclass(frozen=True)
class Captions:
    """What stands in the captions."""

    different: int
    equal: list[tuple[str, int]]
    """First captions that several pictures share, with their number, the most frequent first."""
    encoder: str
    limit: int
    """Tokens that it reads."""
    longest: int
    """Tokens of the longest caption."""
    too_long: list[TooLong]
    """The longest first."""
    words: int
    once: list[str]
    """Words that the captions of one picture alone have."""
    common: list[tuple[str, float]]
    """The most frequent words, with the share of the pictures whose captions have them."""


@dataclass(frozen=True)
class Alike:
    """Pictures that look alike."""

    names: list[str]
    identical: bool
    """Whether their bytes are the same."""
    groups: int
    """Variants of one concept are of one group."""
    apart: bool
    """Whether some are trained on and others held out."""


@dataclass(frozen=True)
class Reconstruction:
    """How well an autoencoder gives the pictures back."""

    model: str
    size: int
    """Rows and columns in pixels."""
    median: float
    """PSNR in dB."""
    psnr: list[tuple[str, float]]
    """Each picture's in dB, the worst first."""


@dataclass(frozen=True)
class DataCheck:
    """All that was found out."""

    source: str
    findings: list[Finding]
    pictures: int
    groups: int
    """Of which an epoch shows one picture each."""
    splits: dict[str, int]
    classes: dict[str, int]
    size: int
    """Rows and columns in pixels at which they are to be trained on."""
    widths: list[int]
    """Least, median and greatest width in pixels of the pictures that are stored as pixels; [] where all are drawn."""
    heights: list[int]
    small: list[str]
    """Pictures whose shorter side is below ``size``, which are enlarged."""
    ratios: dict[str, int]
    """Pictures by the nearest of a few ratios of width to height."""
    cropped: float
    """Share of the pixels that are lost where the pictures are cropped to squares."""
    captions: Captions | None
    alike: list[Alike]
    reconstruction: Reconstruction | None
    files: dict[str, Any] | None
    """What became of the files, as in ``report.json`` of the source."""

    @property
    def problems(self) -> list[Finding]:
        """What is to be mended before training."""
        return [finding for finding in self.findings if finding.problem]

    def to_dict(self) -> dict[str, Any]:
        """The content of ``check.json``."""
        return asdict(self)


def check_data(
    source: Source,
    encoder: PromptEncoder | None,
    size: int,
    *,
    autoencoder: Autoencoder | None = None,
    model: str = "",
    reading: Reading | None = None,
    progress: bool = True,
) -> tuple[DataCheck, Dataset]:
    """Look at every picture and caption of a source.

    Args:
        encoder: the text encoder of the model that is to be trained; None: captions are not checked.
        size: rows and columns in pixels at which it is trained.
        autoencoder: given, each picture is encoded and decoded by it at that size.
        model: what the autoencoder's model is called.
        reading: background and limits of pictures; None: the default ones. However many files are unusable is no error.
        progress: show it on the error stream.

    Returns:
        What was found, and the data set.

    Raises:
        PochadeError: there is no such source, or nothing in it is usable.
    """
    limits = reading or Reading()
    dataset = source.open("all", progress=progress, reading=replace(limits, max_skipped=1.0))
    items = [dataset.item(index) for index in range(len(dataset))]
    pixels = [dataset.dimensions(index) for index in range(len(dataset))]
    stored = [at for at in pixels if at is not None]
    ratios = Counter(dict.fromkeys(RATIOS, 0))
    for width, height in (at or (1, 1) for at in pixels):
        ratios[min(RATIOS, key=lambda name: abs(np.log(RATIOS[name] * height / width)))] += 1
    named = 0 if dataset.report is None else dataset.report.captions[FILE_NAMES]
    captions = None if dataset.classes or named or encoder is None else _captions(dataset, encoder)
    check = DataCheck(
        source=str(source),
        findings=[],
        pictures=len(items),
        groups=len({item.group for item in items}),
        splits=dict(Counter(item.split for item in items)),
        classes=dict.fromkeys(dataset.classes, 0)
        | dict(Counter(dataset.classes[item.label] for item in items if item.label is not None)),
        size=size,
        widths=_spread([width for width, _ in stored]),
        heights=_spread([height for _, height in stored]),
        small=[item.name for item, at in zip(items, pixels, strict=True) if at is not None and min(at) < size],
        ratios=dict(ratios),
        cropped=1 - sum(min(at) ** 2 for at in stored) / sum(w * h for w, h in stored) if stored else 0.0,
        captions=captions,
        alike=_alike(dataset, progress),
        reconstruction=None if autoencoder is None else _reconstruction(dataset, autoencoder, model, size, progress),
        files=None if dataset.report is None else dataset.report.to_dict(),
    )
    check.findings.extend(sorted(_findings(check, dataset.report, limits.max_skipped), key=lambda f: not f.problem))
    return check, dataset


def parts_of(model: str) -> tuple[PromptEncoder | None, Any, int]:
    """The text encoder of a model, None where it knows classes, its autoencoder, and its size in pixels.

    Raises PochadeError where there is no such model.
    """
    pipeline = TextToImagePipeline.from_pretrained(model)
    encoder: Any = pipeline.text_encoder
    return encoder if isinstance(encoder, PromptEncoder) else None, pipeline.autoencoder, pipeline.default_size


def _spread(values: Sequence[int]) -> list[int]:
    return [min(values), int(np.median(values)), max(values)] if values else []


def words_of(captions: Sequence[str]) -> set[str]:
    """The different words of some captions, in small letters."""
    return {word for caption in captions for word in _WORD.findall(caption.casefold())}


def _captions(dataset: Dataset, encoder: PromptEncoder) -> Captions:
    equal, words = Counter[str](), Counter[str]()
    different: set[str] = set()
    too_long: list[TooLong] = []
    longest, limit = 0, encoder.max_tokens
    for index in range(len(dataset)):
        item = dataset.item(index)
        equal[item.captions[0].casefold()] += 1
        words.update(words_of(item.captions))
        for caption in item.captions:
            if caption in different:
                continue
            different.add(caption)
            tokens = encoder.count_tokens(caption)
            longest = max(longest, tokens)
            if tokens > limit:
                too_long.append(TooLong(item.name, caption, tokens, tokens - limit))
    return Captions(
        different=len(different),
        equal=[(caption, count) for caption, count in equal.most_common() if count > 1],
        encoder=encoder.identity,
        limit=limit,
        longest=longest,
        too_long=sorted(too_long, key=lambda one: -one.tokens),
        words=len(words),
        once=sorted(word for word, count in words.items() if count == 1),
        common=[(word, count / len(dataset)) for word, count in words.most_common(LISTED)],
    )


def _alike(dataset: Dataset, progress: bool) -> list[Alike]:
    """Sets of pictures that look alike: those of several groups first, then the largest."""

    def hashed(index: int) -> Fingerprint:
        return fingerprint(dataset.image(index, _HASHED_SIDE))

    seen = [found for _, found in each(hashed, range(len(dataset)), "comparing pictures", progress)]
    sets: list[Alike] = []
    for members in alike(seen):
        items = [dataset.item(index) for index in members]
        sets.append(
            Alike(
                names=[item.name for item in items],
                identical=len({dataset.identity(index) for index in members}) == 1,
                groups=len({item.group for item in items}),
                apart=len({item.split == "train" for item in items}) > 1,
            )
        )
    return sorted(sets, key=lambda one: (not one.apart, one.groups == 1, -len(one.names)))


@torch.no_grad()
def _reconstruction(
    dataset: Dataset, autoencoder: Autoencoder, model: str, size: int, progress: bool
) -> Reconstruction:
    values: list[tuple[str, float]] = []
    with progress_bar(progress) as bar:
        for start in bar.track(range(0, len(dataset), _BATCH), description="encoding and decoding"):
            places = range(start, min(len(dataset), start + _BATCH))
            images = decode(dataset, places, size, size)
            given = autoencoder.decode(autoencoder.encode(images)).clamp(-1, 1)
            found = psnr(given.float(), images).clamp(max=BEST).tolist()
            values += [(dataset.item(index).name, value) for index, value in zip(places, found, strict=True)]
    values.sort(key=lambda one: one[1])
    return Reconstruction(model, size, float(np.median([value for _, value in values])), values)


def _findings(check: DataCheck, report: Report | None, max_skipped: float) -> list[Finding]:
    """What to know, in words."""
    found: list[Finding] = []

    def problem(text: str) -> None:
        found.append(Finding(text, True))

    def remark(text: str) -> None:
        found.append(Finding(text, False))

    if report is not None and report.skipped_count:
        problem(f"{_count(report.skipped_count, 'file')} cannot be used: {report.reasons()}")
        if report.skipped_count > report.allowed(max_skipped):
            problem(f"that is more than the share {max_skipped:g} that training lets pass (data.max_skipped)")
    if report is not None:
        for what, count in report.notes.items():
            remark(f"{what}: {count} ({report.noted(what)})")
        named = report.captions[FILE_NAMES]
        if named:
            remark(f"captions are not checked: {named} of {check.pictures} pictures have the names of their files")
    if "held_out" not in check.splits:
        remark("no picture is held out: data.held_out=false trains on all, and nothing tells memorising from learning")
    if "train" not in check.splits:
        problem("every picture is held out: all are of one group (of one first caption)")
    elif check.groups < check.pictures and check.groups <= 2:
        problem(
            f"{check.pictures} pictures are of {_count(check.groups, 'group')}, of which an epoch shows one picture "
            "each: give them captions of their own"
        )
    if check.small:
        remark(f"{_count(len(check.small), 'picture')} smaller than {check.size} pixels will be enlarged")
    if check.cropped >= 0.01:
        remark(f"cropping to squares loses {check.cropped:.0%} of the pixels (data.ratios=2 keeps 1:2 to 2:1)")
    if check.captions is not None:
        found += _of_captions(check.captions, check.pictures)
    between = [one for one in check.alike if one.groups > 1 or one.identical]
    if between:
        pictures = sum(len(one.names) for one in between)
        remark(f"{pictures} pictures in {_count(len(between), 'set')} look alike: each weighs as much as another one")
    apart = [one for one in check.alike if one.apart]
    if apart:
        problem(
            f"in {_count(len(apart), 'set')} of pictures that look alike some are held out and some are not: what is "
            "measured on the held-out ones is then memory"
        )
    if check.reconstruction is not None:
        found += _of_reconstruction(check.reconstruction, check.source)
    return found


def _of_captions(captions: Captions, pictures: int) -> list[Finding]:
    found: list[Finding] = []
    if captions.equal:
        shared = sum(count for _, count in captions.equal)
        first, count = captions.equal[0]
        found.append(
            Finding(
                f"{shared} of {pictures} pictures share their first caption with another one, {count} {first!r}: they "
                "count as variants of one concept",
                count == pictures > 1,
            )
        )
    if captions.too_long:
        most = captions.too_long[0]
        found.append(
            Finding(
                f"{_count(len(captions.too_long), 'caption')} longer than the {captions.limit} tokens that "
                f"{captions.encoder} reads, by up to {most.over} ({most.name})",
                True,
            )
        )
    if captions.once:
        found.append(
            Finding(f"{len(captions.once)} of {captions.words} words are in one picture's captions alone", False)
        )
    everywhere = [word for word, share in captions.common if share == 1]
    if everywhere and pictures > 1:
        found.append(Finding(f"every picture's captions have the words {', '.join(everywhere[:10])}", False))
    return found


def _of_reconstruction(reconstruction: Reconstruction, source: str) -> list[Finding]:
    poor = [name for name, value in reconstruction.psnr if value < POOR]
    median, train = reconstruction.median, RECIPE.format(quote(source))
    about = f"the autoencoder of {reconstruction.model} gives the pictures back at a median of {median:.1f} dB"
    if median < POOR:
        return [Finding(f"{about}: train one on your own pictures first ({train})", True)]
    if median < SOFT:
        about += f": fine structure is lost; one of your own may keep more ({train})"
    found = [Finding(about, False)]
    if poor:
        found.append(Finding(f"{_count(len(poor), 'picture')} below {POOR:g} dB, {poor[0]} the worst", False))
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
