"""Instructions for an edit: several wordings of each kind, of which one is drawn."""

import numpy as np

WORDINGS: dict[str, tuple[str, ...]] = {
    "recolour": (
        "make it {new}",
        "turn it {new}",
        "paint it {new}",
        "colour it {new}",
        "make the {name} {new}",
        "change its colour to {new}",
        "change the color to {new}",
    ),
    "recolour a part": (
        "make the {old} parts {new}",
        "change {old} to {new}",
        "replace {old} with {new}",
        "turn everything {old} {new}",
        "paint what is {old} in {new}",
        "recolor {old} as {new}",
        "{new} instead of {old}",
    ),
    "local": (
        "make it {new}",
        "make this {new}",
        "turn it {new}",
        "paint it {new}",
        "colour it {new}",
        "color this {new}",
        "change its colour to {new}",
        "change this to {new}",
        "{new}",
    ),
    "swap": ("swap {old} and {new}", "exchange {old} and {new}", "swap the colours {old} and {new}"),
    "colour_in": (
        "colour it in",
        "color it in",
        "add colours",
        "colour in the {name}",
        "paint the {name}",
        "color this drawing: {name}",
        "fill in the colours of the {name}",
        "turn the line drawing into a coloured {name}",
    ),
    "outline": (
        "leave only the outlines",
        "remove the colours",
        "remove all color",
        "make it a line drawing",
        "turn it into a colouring page",
        "draw the {name} in outline only",
        "keep the black lines alone",
    ),
    "mirror": (
        "mirror it",
        "flip it",
        "flip it horizontally",
        "swap left and right",
        "turn it the other way round",
        "make the {name} face the other way",
    ),
    "skin": (
        "make the skin {new}",
        "change the skin tone to {new}",
        "give it {new} skin",
        "{new} skin",
        "make the skin tone {new}",
    ),
    "darker": ("make the skin darker", "make the skin a shade darker", "a darker skin tone"),
    "lighter": ("make the skin lighter", "make the skin a shade lighter", "a lighter skin tone"),
    "person": (
        "make it a {new}",
        "turn the {old} into a {new}",
        "change the {old} to a {new}",
        "a {new} instead of the {old}",
    ),
    "people": (
        "make them {new}",
        "turn the {old} into {new}",
        "change the {old} to {new}",
        "{new} instead of the {old}",
    ),
    "hair colour": (
        "make the hair {new}",
        "dye the hair {new}",
        "change the hair to {new}",
        "give the {who} {new} hair",
        "{new} hair",
    ),
    "hair": ("give the {who} {new}", "change the hairstyle to {new}", "{new}"),
    "bald": ("make the {who} bald", "remove the hair", "shave off the hair"),
    "beard": ("give the {who} a beard", "add a beard", "let the {who} grow a beard"),
}


def instruction(kind: str, rng: np.random.Generator, **parts: str) -> str:
    """One of the wordings of ``kind``, with its parts put in."""
    wordings = WORDINGS[kind]
    return wordings[int(rng.integers(len(wordings)))].format(**parts)
