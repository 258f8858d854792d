"""Which drawings of OpenMoji show the same in another skin tone, as another person, or with other hair."""

from collections.abc import Iterable, Sequence

from pochade.data.sources.openmoji import SKIN_TONE_WORDS, Drawing

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
PLURALS = ("men", "women", "people")
_ROLES = {
    **dict.fromkeys(("man", "woman", "person"), "adult"),
    **dict.fromkeys(PLURALS, "adults"),
    **dict.fromkeys(("boy", "girl", "child"), "child"),
    **dict.fromkeys(("prince", "princess"), "royal"),
    **dict.fromkeys(("merman", "mermaid", "merperson"), "mer"),
}
"""Words for people; those of one role stand for each other."""
HAIR_STYLES = ("red hair", "curly hair", "white hair", "blond hair", "bald", "beard")

Relatives = dict[int, dict[str, int]]
"""For a drawing, by what they are called, all that differ from it in one way; itself among them."""


def relatives_in_tone(items: Sequence[Drawing]) -> Relatives:
    """By skin tone, one of ``TONES`` or "yellow", the colour of drawings that have none."""
    kin: dict[str, dict[str, int]] = {}
    for index, item in enumerate(items):
        tones = SKIN_TONE_WORDS.findall(item.name)
        if len(tones) <= 1 and not item.name.endswith("swatch"):
            kin.setdefault(_bare(item), {})[tones[0] if tones else "yellow"] = index
    return _relatives(kin.values())


def relatives_in_person(items: Sequence[Drawing]) -> Relatives:
    """By the word for who is shown: man, woman, person, girl, men ..."""
    kin: dict[tuple[str, ...], dict[str, int]] = {}
    for index, (frame, word, tone, named) in _parsed(items).items():
        same = kin.setdefault((tone, *frame), {})
        if named or word not in same:
            same[word] = index
    return _relatives(kin.values())


def relatives_in_hair(items: Sequence[Drawing]) -> Relatives:
    """By one of ``HAIR_STYLES``, or "" for a man, a woman or a person without a word about the hair."""
    kin: dict[tuple[str, ...], dict[str, int]] = {}
    for index, (frame, word, tone, named) in _parsed(items).items():
        style = " ".join(frame[1:])
        if named and frame[0] == "*adult" and style in ("", *HAIR_STYLES):
            kin.setdefault((tone, word), {})[style] = index
    return _relatives(kin.values())


def person_of(item: Drawing) -> str:
    """The word for who is shown; "person" where the name has none, or several."""
    words = [word for word in item.name.split() if word in _ROLES]
    return words[0] if len(words) == 1 else "person"


def _bare(item: Drawing) -> str:
    return " ".join(SKIN_TONE_WORDS.sub("", item.name).split())


def _parsed(items: Sequence[Drawing]) -> dict[int, tuple[tuple[str, ...], str, str, bool]]:
    """The name of each drawing of one person (or one kind) without them, their word, their tone, whether it was there.

    "man farmer dark skin tone" and "farmer dark skin tone" have one frame, ("*adult", "farmer").
    """
    parsed: dict[int, tuple[tuple[str, ...], str, str, bool]] = {}
    for index, item in enumerate(items):
        tones = SKIN_TONE_WORDS.findall(item.name)
        words = ["old" if word == "older" else word for word in _bare(item).split()]
        found = [word for word in words if word in _ROLES]
        if len(found) > 1 or len(tones) > 1:
            continue
        frame = tuple(f"*{_ROLES[word]}" if word in _ROLES else word for word in words)
        frame = frame if found else ("*adult", *frame)
        parsed[index] = (frame, found[0] if found else "person", tones[0] if tones else "", bool(found))
    return parsed


def _relatives(kin: Iterable[dict[str, int]]) -> Relatives:
    return {index: same for same in kin if len(same) > 1 for index in same.values()}
