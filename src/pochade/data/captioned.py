"""Captions made richer: a trigger, templates, tags in another order, words left out."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from hashlib import sha256

import numpy as np
from PIL import Image

from pochade.data.dataset import Dataset, Item, Shape
from pochade.data.report import Report
from pochade.errors import PochadeError
from pochade.runtime.tokens import whole

PLACE = "{}"
"""In a template, where the caption goes."""
DRAWS = 8
"""Wordings of a caption in which something is random, where no other number is given."""
HAD_TRIGGER = "had the trigger in their captions before it was put into all"


@dataclass(frozen=True)
class Wording:
    """What becomes of a caption. Raises PochadeError for a value out of range.

    Attributes:
        trigger: words that stand before each caption that does not have them.
        templates: around the caption, which stands for ``{}``; each is used as often.
        keep_tags: how many of the parts between commas stay in front; the others come in any order. None: all stay.
        dropout: the probability in [0, 1) that a part between commas, but those in front, is left out; of a caption
            without commas, a word.
        draws: wordings of each caption where one of the last two is random; the first is the caption in full.
    """

    trigger: str = ""
    templates: tuple[str, ...] = (PLACE,)
    keep_tags: int | None = None
    dropout: float = 0.0
    draws: int = DRAWS

    def __post_init__(self) -> None:
        if self.trigger and not self.trigger.strip():
            raise PochadeError(f"trigger: {self.trigger!r} given, allowed are words")
        for template in self.templates:
            if template.count(PLACE) != 1:
                raise PochadeError(f"template: {template!r} given, must have one {PLACE}, for the caption")
        if self.keep_tags is not None and self.keep_tags < 0:
            raise PochadeError(f"keep_tags: {self.keep_tags} given, allowed are 0 and more, and none")
        if not 0 <= self.dropout < 1:
            raise PochadeError(f"word_dropout: {self.dropout} given, allowed is 0 and more, below 1")
        if self.draws < 1:
            raise PochadeError(f"wordings: {self.draws} given, allowed are 1 and more")

    @property
    def count(self) -> int:
        """Wordings of each caption."""
        random = self.dropout > 0 or self.keep_tags is not None
        return len(self.templates) * (self.draws if random else 1)

    def wordings(self, caption: str) -> list[str]:
        """All wordings [count] of a caption, the first of them in full; the same in every run."""
        return [self._worded(caption, number) for number in range(self.count)]

    def has_trigger(self, caption: str) -> bool:
        """Whether a caption needs no trigger before it: it has the words, and not merely their letters."""
        return not self.trigger or whole(self.trigger).search(caption) is not None

    def _worded(self, caption: str, number: int) -> str:
        draw, template = divmod(number, len(self.templates))
        if draw:
            caption = self._drawn(caption, draw)
        caption = self.templates[template].replace(PLACE, caption)
        return caption if self.has_trigger(caption) else f"{self.trigger}, {caption}"

    def _drawn(self, caption: str, draw: int) -> str:
        seed = sha256(f"{draw} {caption}".encode("utf-8", "surrogateescape")).digest()[:8]
        rng = np.random.default_rng(int.from_bytes(seed, "big"))
        tags = [part for tag in caption.split(",") if (part := tag.strip())]
        parts, between = (tags, ", ") if len(tags) > 1 else (caption.split(), " ")
        front = 1 if self.keep_tags is None else self.keep_tags
        first, rest = parts[:front], parts[front:]
        if self.keep_tags is not None and len(tags) > 1:
            rest = [rest[place] for place in rng.permutation(len(rest))]
        left = [*first, *(part for part in rest if rng.random() >= self.dropout)]
        return between.join(left or parts[:1])


class Captioned(Dataset):
    """A data set with each caption in all its wordings, of which one is drawn whenever its picture is seen.

    As all wordings are known beforehand, their vectors can be cached.

    Raises:
        PochadeError: the data are of classes.
    """

    def __init__(self, dataset: Dataset, wording: Wording) -> None:
        if dataset.classes:
            raise PochadeError(
                "trigger, template, keep_tags, word_dropout: given, but the data hold classes; captions:FOLDER makes "
                "captions of their names"
            )
        self.dataset, self.wording = dataset, wording
        self.windows = dataset.windows
        self._note_trigger()

    def _note_trigger(self) -> None:
        if not self.wording.trigger or self.report is None:
            return
        items = (self.dataset.item(index) for index in range(len(self.dataset)))
        had = [item.name for item in items if any(map(self.wording.has_trigger, item.captions))]
        if len(had) < len(self.dataset):
            for name in had:
                self.report.note(HAD_TRIGGER, name)

    @property
    def report(self) -> Report | None:
        return self.dataset.report

    def different(self) -> int | None:
        return self.dataset.different()

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, index: int) -> Item:
        item = self.dataset.item(index)
        return replace(item, captions=tuple(w for caption in item.captions for w in self.wording.wordings(caption)))

    def image(self, index: int, size: int) -> Image.Image:
        return self.dataset.image(index, size)

    def fitted(self, index: int, width: int, height: int) -> Image.Image:
        return self.dataset.fitted(index, width, height)

    def control(self, index: int, size: int, kind: str) -> Image.Image:
        return self.dataset.control(index, size, kind)

    def dimensions(self, index: int) -> Shape | None:
        return self.dataset.dimensions(index)

    def identity(self, index: int) -> str:
        return self.dataset.identity(index)

    def stored(self, index: int) -> Item:
        return self.dataset.stored(index)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names

    def expect(self, seed: int, position: int | None) -> None:
        self.dataset.expect(seed, position)

    def evenly_spaced(self, count: int) -> Sequence[int]:
        return self.dataset.evenly_spaced(count)

    def fingerprint(self) -> str:
        return sha256(f"{self.dataset.fingerprint()} {astuple(self.wording)}".encode()).hexdigest()
