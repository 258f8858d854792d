"""Draws what ``peers_quality.py`` measured: the loss on held-out pictures by steps, and by seconds.

    python benchmarks/peers_plot.py

Reads docs/benchmarks/peers_quality.json and writes docs/images/peers-quality.svg.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from scans_plot import GREY

DOCS = Path(__file__).parents[1] / "docs"
LINES = {
    "lrf": ("LRF", "#2a8fd8", "o"),
    "iris": ("IRIS", "#8a7be0", "s"),
    "lira": ("LiRA", "#3d9a50", "^"),
    "microforge": ("MicroForge", "#c9568f", "v"),
    "PixArt": ("PixArt", "#d9772b", "D"),
    "SANA": ("SANA", GREY, "x"),
}


def draw(record: dict[str, Any], path: Path) -> None:
    """A line for each run; runs of one network differ by their seed."""
    style = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
    settings: dict[Any, Any] = {"svg.hashsalt": "pochade", "svg.fonttype": "none", "font.size": 9}
    rate = record["rows"][0]["rate"]
    with mpl.rc_context(settings | style):
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
        for name, (title, colour, marker) in LINES.items():
            seconds = record["costs"][name]["seconds"]
            rows = [row for row in record["rows"] if (row["network"], row["rate"]) == (name, rate)]
            for number, seed in enumerate(sorted({row["seed"] for row in rows})):
                points = sorted((row["steps"], row["held-out loss"]) for row in rows if row["seed"] == seed)
                steps, losses = zip(*points, strict=True)
                drawn = {"color": colour, "marker": marker, "markersize": 4, "label": None if number else title}
                axes[0].plot(steps, losses, **drawn)
                axes[1].plot([step * seconds for step in steps], losses, **drawn)
        for axis, label in zip(axes, ("steps", "seconds of the processor"), strict=True):
            axis.set_xlabel(label)
            axis.grid(color=GREY, alpha=0.25, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            axis.patch.set_alpha(0)
        axes[0].set_ylabel("loss, held out")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    measured = json.loads((DOCS / "benchmarks" / "peers_quality.json").read_text(encoding="utf-8"))
    draw(measured, DOCS / "images" / "peers-quality.svg")
