"""Tables with figures that no record makes, and what holds them: ``figures.py --check`` finds any other."""

import re
from collections.abc import Mapping

TABLE = re.compile(r"^(\|.*\|)\n\|[-:| ]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)
CODE = re.compile(r"`[^`]*`|\]\([^)]*\)")
FIGURE = re.compile(r"\d\.\d|± ")
"""What a measured figure has, and a count, a version or a setting mostly has not."""

SETTINGS = "settings and their defaults"
SIZES = "sizes of networks, compared with the code by tests/contracts, tests/autoencoders and tests/denoisers"

TYPED: dict[str, dict[str, str]] = {
    "README.md": {"| family | architecture | parameters |": "rounded from the table of docs/families.md"},
    "docs/adapters.md": {
        "| field | default | |": SETTINGS,
        "| | whole network | LoRA | LoRA of attention alone | least |": "printed by benchmarks/lora.py, no record kept",
    },
    "docs/benchmarks.md": {
        "| change | LRF | LiRA | MicroForge |": "read off exported_step.json of two commits",
        "| change | predicted | LRF, depth 2 | LiRA | MicroForge | IRIS, depth 4 |": (
            "minima of rounds in turn in one process, no record kept"
        ),
        "| change | predicted | a call at 64 tokens, us | LiRA | MicroForge |": (
            "minima of rounds in turn in one process, no record kept"
        ),
        "| how the scans of a block are laid out | predicted | LiRA, 64 / 256 / 1,024 tokens | MicroForge |": (
            "minima of rounds in turn in one process, no record kept"
        ),
        "| on an H100 | aim | measured |": "ranges over docs/benchmarks/gpu.json",
        "| change | measured, on a CPU | on a GPU |": "single runs, described in their row",
        "| scan | forward, before | now | backward, before | now |": "a comparison of two forms of the code, of which "
        "one is gone",
        "| network | as written | compiled | ratio | the first step compiled, s |": "single runs of ten steps each",
        "| rounds | alone | beside it |": "single runs, beside another program",
        "| network | velocity, stream in float32 | velocity, stream in bf16 | gradient, stream in float32 | gradient, "
        "stream in bf16 |": "a comparison of two forms of the code, of which one is gone",
    },
    "docs/claims.md": {"| default | measured by | supported |": "points to claims of the page, which are generated"},
    "docs/cli.md": {"| option | meaning |": SETTINGS},
    "docs/data.md": {"| set | style | licence | drawings |": "versions of licences"},
    "docs/editing.md": {
        "| strength | what is left of the picture |": SETTINGS,
        "| model | the prompt | what happens |": SETTINGS,
    },
    "docs/families.md": {
        "| family | variant | parameters | tolerance | width | blocks x iterations | latents | conditioned on |": SIZES,
        "| variant | backbone | planner | plan | state in float32 |": SIZES,
        "| autoencoder | variant | pixels per latent cell | channels | encoder | decoder | used by |": SIZES,
        "| decoder alone | parameters | for |": SIZES,
        "| identity | parameters | width | tokens | for |": "sizes of text encoders, as their authors published them",
    },
    "docs/on-device.md": {
        "| name | matrix products, embeddings | convolutions | size |": SETTINGS,
        "| model | weights | pixels, steps | time of a picture | source |": "published figures, each with its source",
    },
    "docs/published.md": {
        "| recipe | stages | sizes | steps | batch | learning rate | warm-up | clip | EMA |": "published settings, "
        "compared with the recipes by tests/recipes"
    },
    "docs/scale.md": {
        "| figure | where it comes from |": "explains the figures of scale.json",
        "| | published | at 9.5 % | share needed | |": "estimates by the generated table above it",
    },
    "docs/training.md": {"| setting | what it does |": SETTINGS},
}
"""Page -> the head of a table that is typed by hand, and why it may be."""


def heads(text: str, marks: re.Pattern[str]) -> set[str]:
    """The first lines of the tables of a page that hold figures outside the marks."""
    return {head for head, body in TABLE.findall(marks.sub("", text)) if FIGURE.search(CODE.sub("", body))}


def unaccounted(pages: Mapping[str, str], marks: re.Pattern[str]) -> list[str]:
    """A line for each table with figures outside the marks that is not in ``TYPED``."""
    found = {name: sorted(heads(text, marks) - TYPED.get(name, {}).keys()) for name, text in pages.items()}
    return [f"{name}: no record holds the figures of the table {head}" for name in found for head in found[name]]
