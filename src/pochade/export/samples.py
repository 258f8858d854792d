"""Pictures of a bundle that is being written: to compare precisions, and to see what its graphs are called with."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pochade.export.formats.base import Examples, Format
from pochade.runtime import Bundle
from pochade.runtime.graphs import Run
from pochade.runtime.manifest import Graph, Manifest

PICTURES = 4
"""Sampled to compare precisions,"""
PICTURE_STEPS = 4
"""in so many steps,"""
PROMPTS = ("a red apple", "a sleeping cat", "a sailboat", "a red house with a door", "a yellow flower", "a blue bird")
"""of these where a model names no prompts."""
EXAMPLES = 6
"""Pictures at every depth by which a graph is calibrated: other ones than those that are compared."""


def pictures(folder: Path, manifest: Manifest, form: Format, count: int) -> list[np.ndarray]:
    """So many pictures of the graphs in a folder that has its manifest, [H, W, 3] in bytes."""
    bundle, prompts = Bundle(folder, openers={form.name: form.open}), _prompts(manifest)
    return [
        np.asarray(bundle.generate(prompts[i % len(prompts)], seed=i, steps=PICTURE_STEPS).image) for i in range(count)
    ]


def psnr(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float | None:
    """Peak signal-to-noise ratio in dB over pictures, at most 99; None of none."""
    if not first:
        return None
    errors = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(first, second, strict=True)]
    return min(99.0, float(10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9))))


def examples(folder: Path, manifest: Manifest, form: Format) -> Examples:
    """What the graphs in a folder that has its manifest are called with for ``EXAMPLES`` new pictures at every depth,
    and, where there is an encoder, for edits of them with a mask and without."""
    seen: dict[str, list[Mapping[str, np.ndarray]]] = defaultdict(list)

    def opens(path: Path, name: str, graph: Graph, threads: int | None, low_memory: bool) -> Run:
        runs = form.open(path, name, graph, threads, low_memory)

        def run(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            seen[name].append({key: np.array(value) for key, value in values.items()})
            return runs(values)

        return run

    bundle, prompts = Bundle(folder, openers={form.name: opens}), _prompts(manifest)
    hole = Image.new("L", (manifest.width, manifest.height))
    hole.paste(255, (manifest.width // 4, manifest.height // 4, manifest.width // 2, manifest.height // 2))
    for i in range(EXAMPLES):
        prompt, seed = prompts[i % len(prompts)], 1000 + i
        for depth in map(int, manifest.depths) if manifest.depths else (None,):
            made = bundle.generate(prompt, seed=seed, steps=PICTURE_STEPS, depth=depth)
            if "edit" in manifest.tasks:
                bundle.edit(prompt, made.image, seed=seed, steps=PICTURE_STEPS, depth=depth)
                bundle.inpaint(prompt, made.image, hole, seed=seed, steps=PICTURE_STEPS, depth=depth)
    return dict(seen)


def _prompts(manifest: Manifest) -> tuple[str, ...]:
    if manifest.text is None:
        return ("",)
    return manifest.text.classes or manifest.model.prompts or PROMPTS
