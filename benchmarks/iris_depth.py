"""Quality against the depth of a trained IRIS: KID (Lite0) and retrieval, as a plot.

    python benchmarks/iris_depth.py iris-nano
    python benchmarks/iris_depth.py taught=runs/on/1-text_low/model plain=runs/off/1-text_low/model --depths 2 4 8 16

Writes docs/benchmarks/iris_depth.json, in which models of other names stay, and docs/images/iris-depth.svg. Pictures
are kept below --pictures, so that an interrupted run goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from measuring import GUIDED_THROUGHOUT, quality
from pochade.evaluation.report import evaluate
from pochade.files import write_text
from pochade.pipelines.text_to_image import TextToImagePipeline

DOCS = Path(__file__).parents[1] / "docs"
GREY = "#80858c"  # in the middle: letters of it can be read on a white page and on a dark one
COLOURS = ("#2a8fd8", "#d9772b", "#5a9e4b", "#a05fb4")


def measure(name: str, folder: str, depth: int, args: Any) -> dict[str, Any]:
    """A point of a curve."""
    pipe = TextToImagePipeline.from_pretrained(folder, **GUIDED_THROUGHOUT)
    report = evaluate(
        pipe,
        "openmoji",
        samples=args.samples,
        steps=args.steps,
        guidance=pipe.default_guidance,
        depth=depth,
        out=args.pictures / f"{name}-{args.steps}-{depth}",
        model=name,
        progress=False,
    ).figures
    row = {
        "model": name,
        "depth": depth,
        "effective_parameters": pipe.denoiser.effective_parameters(depth),
        **quality(report),
    }
    print(json.dumps(row), flush=True)
    return row


def draw(record: dict[str, Any], path: Path) -> None:
    """KID with its standard deviation over subsets, and retrieval, against depth."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
    names = list(dict.fromkeys(row["model"] for row in record["rows"]))
    with mpl.rc_context({"svg.hashsalt": "pochade", "svg.fonttype": "none", "font.size": 9, **style}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.9), layout="constrained")
        for name, colour in zip(names, COLOURS, strict=False):
            rows = sorted((row for row in record["rows"] if row["model"] == name), key=lambda row: row["depth"])
            depths = [row["depth"] for row in rows]
            std = [row["kid train std"] for row in rows]
            distance = [row["kid train"] for row in rows]
            left.errorbar(depths, distance, std, marker="o", ms=4, capsize=2, color=colour, label=name)
            right.plot(depths, [row["R@1 train"] for row in rows], marker="o", ms=4, color=colour, label=name)
            held_out = [row["R@1 held_out"] for row in rows]
            right.plot(depths, held_out, marker="o", ms=4, ls=":", color=colour, label=f"{name}, held out")
        left.set_ylabel("KID (Lite0), training captions")
        left.set_ylim(bottom=0)
        right.set_ylabel("R@1")
        right.set_ylim(0, 1)
        for axis in (left, right):
            axis.axvspan(*record["trained"], color=GREY, alpha=0.12, lw=0)
            axis.set_xticks(sorted({row["depth"] for row in record["rows"]}))
            axis.set_xlabel("iterations r (shaded: trained)")
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="NAME of a shipped model, or NAME=FOLDER")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 3, 4, 6, 8, 12, 16, 24])
    parser.add_argument("--steps", type=int, default=10, help="Euler steps")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--pictures", type=Path, default=Path("runs/depth"))
    parser.add_argument("--output", type=Path, default=DOCS / "benchmarks" / "iris_depth.json")
    args = parser.parse_args()
    record = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {"rows": []}
    for item in args.models:
        name, _, folder = item.partition("=")
        depths = TextToImagePipeline.from_pretrained(folder or name).denoiser.config.depths
        record |= {"trained": [min(depths), max(depths)], "steps": args.steps, "samples": args.samples}
        rows = [measure(name, folder or name, depth, args) for depth in sorted(args.depths)]
        record["rows"] = [row for row in record["rows"] if row["model"] != name] + rows
        write_text(args.output, json.dumps(record, indent=2) + "\n")
    draw(record, DOCS / "images" / "iris-depth.svg")


if __name__ == "__main__":
    main()
