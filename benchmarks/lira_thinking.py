"""How long LiRA thinks about short and long prompts: the reasoning steps of a trained model, prompt by prompt.

    python benchmarks/lira_thinking.py [--model lira-openmoji]

Writes docs/benchmarks/lira_thinking.json and docs/images/lira-thinking.svg. Each caption is sampled once, without
guidance; the steps that the loop took are counted at every sampling step.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from pochade.data.sources.openmoji import OpenMoji
from pochade.files import write_text
from pochade.pipelines.schedulers import make_scheduler
from pochade.pipelines.text_to_image import TextToImagePipeline

DOCS = Path(__file__).parents[1] / "docs"
GREY = "#80858c"  # in the middle: letters of it can be read on a white page and on a dark one
SHORT, LONG = 2, 5
"""Words up to which a prompt is called short, and from which on it is called long."""
BATCH = 64


def captions(count: int) -> list[str]:
    """Captions of both splits, the shortest and the longest of each concept, evenly spaced over all."""
    chosen: set[str] = set()
    for split in ("train", "held_out"):
        data = OpenMoji(split)  # pyright: ignore[reportArgumentType]
        for index in range(len(data)):
            by_length = sorted(data.item(index).captions, key=lambda text: (len(text.split()), text))
            chosen |= {by_length[0], by_length[-1]}
    ordered = sorted(chosen)
    return ordered[:: -(-len(ordered) // count)]


@torch.no_grad()
def steps_of(pipe: Any, prompts: list[str], sampling_steps: int) -> list[list[int]]:
    """For each prompt the reasoning steps at each sampling step."""
    found: list[list[int]] = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        seen: list[list[int]] = []

        def record(_: Any, __: int, ___: Any, tensors: dict[str, Any], seen: list[list[int]] = seen) -> None:
            seen.append([round(v) for v in tensors["aux"]["reasoning_steps"].tolist()])

        pipe(
            part,
            num_inference_steps=sampling_steps,
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))],
            output_type="latent",
            callback_on_step_end=record,
            callback_on_step_end_tensor_inputs=["aux"],
        )
        found += [list(row) for row in zip(*seen, strict=True)]
    return found


def draw(groups: dict[str, Counter[int]], path: Path) -> None:
    """Shares of reasoning steps, short prompts beside long ones."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
    with mpl.rc_context({"svg.hashsalt": "pochade", "svg.fonttype": "none", "font.size": 9, **style}):
        figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
        every = sorted({step for counts in groups.values() for step in counts})
        for i, (name, counts) in enumerate(groups.items()):
            total = sum(counts.values())
            heights = [counts[step] / total for step in every]
            places = [step + 0.4 * (i - 0.5) for step in every]
            axis.bar(places, heights, 0.38, label=name, color=("#2a8fd8", "#d9772b")[i])
        axis.set_xticks(every)
        axis.set_xlabel("reasoning steps")
        axis.set_ylabel("fraction of the calls")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="lira-openmoji")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--sampling-steps", type=int, default=10)
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    pipe = TextToImagePipeline.from_pretrained(args.model, scheduler=make_scheduler("euler"))
    pipe.set_progress_bar_config(disable=True)
    prompts = captions(args.prompts)
    steps = steps_of(pipe, prompts, args.sampling_steps)
    means = [fmean(row) for row in steps]
    words = [len(prompt.split()) for prompt in prompts]
    record: dict[str, Any] = {
        "model": args.model,
        "size": pipe.default_size,
        "sampling_steps": args.sampling_steps,
        "prompts": len(prompts),
        "mean": fmean(means),
        "std": stdev(means),
        "steps": dict(sorted(Counter(step for row in steps for step in row).items())),
        "correlation with words": float(torch.corrcoef(torch.tensor([words, means], dtype=torch.float64))[0, 1]),
        "by sampling step": [fmean(row[i] for row in steps) for i in range(args.sampling_steps)],
    }
    groups: dict[str, Counter[int]] = {}
    for name, chosen in (
        (f"up to {SHORT} words", [i for i, n in enumerate(words) if n <= SHORT]),
        (f"{LONG} words and more", [i for i, n in enumerate(words) if n >= LONG]),
    ):
        groups[name] = Counter(step for i in chosen for step in steps[i])
        values = [means[i] for i in chosen]
        record[name] = {
            "prompts": len(values),
            "mean": fmean(values),
            "standard error": stdev(values) / len(values) ** 0.5,
            "steps": dict(sorted(groups[name].items())),
        }
    order = sorted(range(len(prompts)), key=lambda i: means[i])
    record["shortest"] = [[prompts[i], means[i]] for i in order[:8]]
    record["longest"] = [[prompts[i], means[i]] for i in order[-8:]]
    write_text(args.output / "benchmarks" / "lira_thinking.json", json.dumps(record, indent=2) + "\n")
    draw(groups, args.output / "images" / "lira-thinking.svg")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
