"""Pairs made from OpenMoji's drawings as they are drawn: holes, lost detail, and edits with instructions."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from hashlib import sha256

import numpy as np
from PIL import Image, ImageOps

from pochade.data.dataset import Split, split_of
from pochade.data.sources.openmoji import Drawing, OpenMoji
from pochade.data.sources.pairs.attributes import (
    PLURALS,
    TONES,
    Relatives,
    person_of,
    relatives_in_hair,
    relatives_in_person,
    relatives_in_tone,
)
from pochade.data.sources.pairs.degradation import random_hole, random_loss
from pochade.data.sources.pairs.layers import (
    HAIR,
    PALETTE,
    areas,
    colours_of,
    draw,
    keep_layers,
    names_of,
    read_layers,
    repaint,
    shade_for_shade,
)
from pochade.data.sources.pairs.masked import changed_area, mark
from pochade.data.sources.pairs.pair import DIFFERENT_FRACTION, PAIR_TASKS, Pair, PairDataset, differ
from pochade.data.sources.pairs.wordings import instruction
from pochade.errors import FailureError, PochadeError, nearest

EDITS = ("recolour", "local", "colour_in", "outline", "mirror", "skin", "person", "hair")
KINDS = ("inpaint", "super_resolution", *EDITS)
SMALLEST_AREA = 0.02
"""Fraction of the picture that a colour takes at least where it is changed."""
DOMINANT = 0.6
"""Fraction of the coloured pixels that a colour takes at least where it goes unnamed: "make it green"."""
SWAPPED = 0.2
"""How often two colours are swapped where there are two."""
ASYMMETRIC = 0.04
"""Fraction of the pixels that mirroring changes at least: of a letter or a face that is nearly symmetric, few."""
MARKED = 0.7
"""Fraction of the picture that the mask of a local edit marks at most."""
TRIES = 200
VERSION = 1
"""Changes with the pairs that are made of the same drawings."""
SMALLEST, LARGEST = 8, 2048
"""Pixels."""

_Made = tuple[Image.Image, Image.Image, str]
"""Source, target, instruction."""


class OpenMojiPairs(PairDataset):
    """Pairs from the drawings of OpenMoji, of a kind that is drawn first and a concept that allows it.

    - "inpaint": boxes, strokes or a half are hidden; the instruction is the caption.
    - "super_resolution": reduced by 2 or 4, half the time as a JPEG file, and enlarged again; likewise the caption.
    - "recolour": one colour of the palette becomes another one, or two are swapped. "local": one area of a colour
      becomes another one, which a mask marks and the instruction does not name; the source is shown whole. "colour_in"
      and "outline": from the outlines to the drawing, and back. "mirror". "skin": another of the five tones, or yellow.
      "person": another variant of the concept, man, woman or person. "hair": another colour, or another style where
      there is one.

    A source is never the same as its target. An epoch draws each concept once; one that does not allow the kind is
    replaced by another one of the split.

    Args:
        size: rows and columns in pixels, 8 to 2048.
        split: "train", "held_out" or "all", of concepts as in `OpenMoji`: no pair has a concept of the other side.
        weights: how often each of ``KINDS`` is drawn, in relation to the others; None: all equally. Those that are
            not named are not drawn.

    Raises:
        PochadeError: an unknown kind, a weight below zero, no weight at all; and as `OpenMoji` does.
    """

    def __init__(self, size: int = 64, split: Split = "train", weights: Mapping[str, float] | None = None) -> None:
        self.weights = dict.fromkeys(KINDS, 1.0) if weights is None else dict(weights)
        for kind, weight in self.weights.items():
            if kind not in KINDS:
                raise PochadeError(f"weights: {kind!r} given, allowed are {', '.join(KINDS)}{nearest(kind, KINDS)}")
            if not 0 <= weight < float("inf"):
                raise PochadeError(f"weights: {weight} given for {kind}, allowed is 0 or more")
        total = sum(self.weights.values())
        if not total:
            raise PochadeError("weights: all are 0, at least one must be more")
        self._kinds = list(self.weights)
        self.tasks = tuple(
            task for task in PAIR_TASKS if any(w and task_of(kind) == task for kind, w in self.weights.items())
        )
        self._probabilities = [weight / total for weight in self.weights.values()]
        if not SMALLEST <= size <= LARGEST:
            raise PochadeError(f"size: {size} given, allowed are {SMALLEST} to {LARGEST} pixels")
        self.size = size
        self._dataset = OpenMoji(split)
        self._fingerprint: str | None = None
        self.drawings = self._dataset.drawings
        self.concepts = list(self._dataset.groups().values())
        """The drawings of each concept."""
        concept_of = {drawing: number for number, drawings in enumerate(self.concepts) for drawing in drawings}
        self._tones, self._persons, self._styles = (
            relatives(self.drawings) for relatives in (relatives_in_tone, relatives_in_person, relatives_in_hair)
        )
        self._makers: dict[str, Callable[[int, np.random.Generator], _Made | None]] = {
            "super_resolution": self._super_resolution,
            "recolour": self._recolour,
            "colour_in": self._colour_in,
            "outline": self._outline,
            "mirror": self._mirror,
            "skin": self._skin,
            "person": self._person,
            "hair": self._hair,
        }
        # Few concepts have relatives: looking for one that has would take many tries.
        able: dict[str, Relatives] = {"skin": self._tones, "person": self._persons, "hair": self._tones}
        self._concepts = {kind: sorted({concept_of[index] for index in relatives}) for kind, relatives in able.items()}

    def __len__(self) -> int:
        """The number of concepts."""
        return len(self.concepts)

    def pair(self, index: int, rng: np.random.Generator | None = None) -> Pair:
        """A pair from concept ``index``, or from another one where that does not allow the kind that is drawn.

        Without ``rng`` it is always the same one.
        """
        rng = np.random.default_rng(index) if rng is None else rng
        kind = self._kinds[int(rng.choice(len(self._kinds), p=self._probabilities))]
        for _ in range(TRIES):
            variants = self.concepts[index]
            drawing = variants[int(rng.integers(len(variants)))]
            with_mask = {"inpaint": self._inpaint, "local": self._local}.get(kind)
            made = self._without_mask(kind, drawing, rng) if with_mask is None else with_mask(drawing, rng)
            if made is not None:
                return made
            concepts = self._concepts.get(kind) or range(len(self))
            index = int(concepts[int(rng.integers(len(concepts)))])
        raise FailureError(f"{kind}: no drawing of this split could be made a pair of in {TRIES} tries")

    def identity(self, index: int) -> str:
        # A draw may fall upon any concept, so that all of them count.
        return sha256(f"{index} of {self.fingerprint()}".encode()).hexdigest()

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            facts = [VERSION, self.size, self.weights, self._dataset.fingerprint()]
            self._fingerprint = sha256(json.dumps(facts).encode()).hexdigest()
        return self._fingerprint

    def _pair(self, kind: str, drawing: int, made: _Made, mask: Image.Image | None = None) -> Pair | None:
        source, target, words = made
        if not differ(source, target, ASYMMETRIC if kind == "mirror" else DIFFERENT_FRACTION):
            return None
        item = self.drawings[drawing]
        name, side = f"{item.code}-{kind}", split_of(item.concept)
        return Pair(task_of(kind), source, target, mask, words, name, item.concept, side)

    def _without_mask(self, kind: str, drawing: int, rng: np.random.Generator) -> Pair | None:
        made = self._makers[kind](drawing, rng)
        return None if made is None else self._pair(kind, drawing, made)

    def _inpaint(self, drawing: int, rng: np.random.Generator) -> Pair | None:
        target = self._image(drawing)
        hidden = random_hole(target, rng)
        if hidden is None:
            return None
        source, mask = hidden
        return self._pair("inpaint", drawing, (source, target, self._caption(drawing, rng)), mask)

    def _super_resolution(self, drawing: int, rng: np.random.Generator) -> _Made | None:
        target = self._image(drawing)
        return random_loss(target, rng), target, self._caption(drawing, rng)

    def _image(self, drawing: int) -> Image.Image:
        return self._dataset.image(drawing, self.size)

    def _caption(self, drawing: int, rng: np.random.Generator) -> str:
        return draw_caption(self.drawings[drawing], rng)

    def _recolour(self, drawing: int, rng: np.random.Generator) -> _Made | None:
        item = self.drawings[drawing]
        source = self._image(drawing)
        layers = read_layers(item.path)
        area = areas(source)
        able, others = _colours(layers, area)
        if not able or not others:
            return None
        if len(able) > 1 and rng.random() < SWAPPED:
            old, new = rng.permutation(able)[:2].tolist()
            colours = shade_for_shade(old, new) | shade_for_shade(new, old)
            wording = "swap"
        else:
            old, new = able[int(rng.integers(len(able)))], others[int(rng.integers(len(others)))]
            colours = shade_for_shade(old, new)
            dominant = area[old] >= DOMINANT * sum(area.values())
            wording = "recolour" if dominant and rng.random() < 0.5 else "recolour a part"
        repaint(layers, "color", colours)
        return source, draw(layers, self.size), instruction(wording, rng, old=old, new=new, name=item.name)

    def _local(self, drawing: int, rng: np.random.Generator) -> Pair | None:
        source = self._image(drawing)
        layers = read_layers(self.drawings[drawing].path)
        able, others = _colours(layers, areas(source))
        if not able or not others:
            return None
        old, new = (names[int(rng.integers(len(names)))] for names in (able, others))
        repaint(layers, "color", shade_for_shade(old, new))
        everywhere = draw(layers, self.size)
        area = changed_area(source, everywhere, rng)
        target = Image.composite(everywhere, source, Image.fromarray(np.where(area, 255, 0).astype(np.uint8)))
        mask = mark(source, area, np.any(np.asarray(target) != np.asarray(everywhere), axis=-1), rng)
        if np.asarray(mask).mean() > 255 * MARKED:
            return None
        return self._pair("local", drawing, (source, target, instruction("local", rng, new=new)), mask)

    def _colour_in(self, drawing: int, rng: np.random.Generator) -> _Made | None:
        return self._outlines(drawing), self._image(drawing), self._instruction_of(drawing, "colour_in", rng)

    def _outline(self, drawing: int, rng: np.random.Generator) -> _Made | None:
        return self._image(drawing), self._outlines(drawing), self._instruction_of(drawing, "outline", rng)

    def _outlines(self, drawing: int) -> Image.Image:
        layers = read_layers(self.drawings[drawing].path)
        keep_layers(layers, "line")
        return draw(layers, self.size)

    def _mirror(self, drawing: int, rng: np.random.Generator) -> _Made | None:
        source = self._image(drawing)
        return source, ImageOps.mirror(source), self._instruction_of(drawing, "mirror", rng)

    def _instruction_of(self, drawing: int, wording: str, rng: np.random.Generator) -> str:
        return instruction(wording, rng, name=self.drawings[drawing].name)

    def _skin(self, drawing: int, rng: np.random.Generator) -> _Made | None:
        found = _relative(self._tones, drawing, rng)
        if found is None:
            return None
        old, new, other = found
        wording = "skin"
        if old in TONES and new in TONES and rng.random() < 0.5:
            steps = TONES.index(new) - TONES.index(old)
            wording = {1: "darker", -1: "lighter"}.get(steps, "skin")
        return self._image(drawing), self._image(other), instruction(wording, rng, new=new)

    def _person(self, drawing: int, rng: np.random.Generator) -> _Made | None:
        found = _relative(self._persons, drawing, rng)
        if found is None:
            return None
        old, new, other = found
        wording = "people" if new in PLURALS else "person"
        return self._image(drawing), self._image(other), instruction(wording, rng, old=old, new=new)

    def _hair(self, drawing: int, rng: np.random.Generator) -> _Made | None:
        item = self.drawings[drawing]
        who = person_of(item)
        source = self._image(drawing)
        found = _relative(self._styles, drawing, rng)
        if found is not None and found[1] and rng.random() < 0.5:
            _, new, other = found
            wording = new if new in ("bald", "beard") else "hair"
            return source, self._image(other), instruction(wording, rng, who=who, new=new)
        layers = read_layers(item.path)
        colours = [colour for colour, _ in colours_of(layers, "hair").most_common()]
        if not colours:
            return None
        others = [name for name, shades in HAIR.items() if colours[0] not in shades]
        new = others[int(rng.integers(len(others)))]
        shades = HAIR[new]
        repaint(layers, "hair", {c: shades[min(i, len(shades) - 1)] for i, c in enumerate(colours)})
        return source, draw(layers, self.size), instruction("hair colour", rng, who=who, new=new)


def task_of(kind: str) -> str:
    """The task that pairs of a kind teach."""
    return "edit" if kind in EDITS else kind


def draw_caption(drawing: Drawing, rng: np.random.Generator) -> str:
    """A caption: the name nearly always, each other word with probability 1/2, in random order."""
    keywords = [k for k in drawing.keywords if rng.random() < 0.5]
    words = keywords if keywords and rng.random() < 0.1 else [drawing.name, *keywords]
    return ", ".join(rng.permutation(words).tolist()) if len(words) > 1 else words[0]


def _colours(layers: ET.Element, area: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """The palette's colours that can be changed in a drawing, and those that it has nowhere."""
    present, elsewhere = (names_of(colours_of(layers, "color", other=other)) for other in (False, True))
    # A colour that skin or hair has too would have to be separated from it.
    able = [name for name in PALETTE if name in present - elsewhere and area[name] >= SMALLEST_AREA]
    return able, [name for name in PALETTE if name not in present | elsewhere]


def _relative(relatives: Relatives, drawing: int, rng: np.random.Generator) -> tuple[str, str, int] | None:
    """What the drawing is called among its relatives, and another of them: what that is called, and its index."""
    same = relatives.get(drawing)
    if same is None:
        return None
    old = next(name for name, index in same.items() if index == drawing)
    others = [name for name in same if name != old]
    new = others[int(rng.integers(len(others)))]
    return old, new, same[new]
