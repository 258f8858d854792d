"""Draws what ``scans.py`` measured: time against tokens, a panel for every kind and mode.

python benchmarks/scans_plot.py [docs/benchmarks/scans.json docs/images/benchmarks-scans.svg]
"""

import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
GREY = "#80858c"  # in the middle: lines and letters of it can be read on a white page and on a dark one
SIDES = {
    "numba": ("pochade", "#2a8fd8", "o"),
    "triton": ("pochade", "#2a8fd8", "o"),
    "torch": ("pochade, composed of torch operators", "#8a7be0", "s"),
    "cumsum": ("torch.cumsum", "#3d9a50", "^"),
    "copy": ("device copy of the same bytes", "#3d9a50", "^"),
    "mambapy": ("mambapy", "#d9772b", "D"),
    "loop": ("plain loop", "#c9568f", "v"),
    "products": ("matrix products of the chunked form alone", GREY, ""),
}
KINDS = {"diagonal": "Diagonal recurrence", "selective": "Mamba-1, four directions", "ssd": "SSD (Mamba-2), S = 16"}
MODES = {"forward": "forward", "both": "forward + backward"}


def draw(record: dict[str, Any], path: Path) -> None:
    """The narrowest model with a batch of one and all threads; says so where matplotlib is absent."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'pochade[eval]')")
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    style = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
    settings: dict[Any, Any] = {
        "svg.hashsalt": "pochade",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
    }
    width, threads = min(r["width"] for r in record["rows"]), record["threads"][-1]
    chosen = [r for r in record["rows"] if (r["width"], r["batch"], r["threads"]) == (width, 1, threads)]
    with mpl.rc_context(settings | style):
        figure, axes = plt.subplots(2, 3, figsize=(10, 6), sharex="col", layout="constrained")
        handles: dict[str, Any] = {}
        for column, (kind, title) in enumerate(KINDS.items()):
            for row, (mode, label) in enumerate(MODES.items()):
                axis = axes[row, column]
                lines: dict[str, list[tuple[int, float]]] = {}
                for r in chosen:
                    if r["kind"] == kind and r["states"] <= 16:
                        lines.setdefault(r["side"], []).append((r["tokens"], r[f"{mode}_ms"]))
                        if kind == "ssd" and r["side"] != "torch":
                            lines.setdefault("products", []).append((r["tokens"], r[f"{mode}_products_ms"]))
                for side, points in lines.items():
                    name, colour, marker = SIDES[side]
                    x, y = zip(*sorted(points), strict=True)
                    own = name == "pochade"
                    drawn = {"linewidth": 2.4 if own else 1.4, "linestyle": "-" if marker else ":", "zorder": 2 + own}
                    (handles[name],) = axis.plot(x, y, color=colour, marker=marker, markersize=4.5, **drawn)
                axis.set_xscale("log", base=2)
                axis.set_yscale("log")
                axis.xaxis.set_major_locator(FixedLocator(sorted({r["tokens"] for r in chosen if r["kind"] == kind})))
                axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
                axis.yaxis.set_major_locator(LogLocator(numticks=7))
                axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
                axis.yaxis.set_minor_locator(NullLocator())
                axis.grid(color=GREY, alpha=0.25, linewidth=0.6)
                axis.spines[["top", "right"]].set_visible(False)
                axis.patch.set_alpha(0)
                if row == 0:
                    axis.set_title(title, fontsize=10, fontweight="bold")
                else:
                    axis.set_xlabel("tokens N")
                if column == 0:
                    axis.set_ylabel(f"{label}, ms")
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    source, target = sys.argv[1:] or (DOCS / "benchmarks" / "scans.json", DOCS / "images" / "benchmarks-scans.svg")
    draw(json.loads(Path(source).read_text(encoding="utf-8")), Path(target))
