"""The networks of a bundle at work: from noise to latents, and between latents and pixels, in tiles of its size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import FailureError
from .canvas import Tiles
from .graphs import Graphs
from .manifest import WITHOUT_SOURCE, Manifest
from .noise import Noise
from .options import OnStep, Step
from .pictures import to_image
from .prompts import Prompts
from .sampling import Denoiser, Guidance, noise_times, sample


@dataclass(frozen=True)
class Call:
    """What all tasks have in common, checked."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: Guidance
    depth: int | None
    on_step: OnStep | None


class Networks:
    """The networks of one bundle.

    Args:
        manifest: of the bundle.
        graphs: that run them.
        prompts: that read a prompt.
    """

    def __init__(self, manifest: Manifest, graphs: Graphs, prompts: Prompts) -> None:
        self._manifest = manifest
        self._graphs = graphs
        self._prompts = prompts

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the latents that the graphs take."""
        return self._manifest.latents.height, self._manifest.latents.width

    def sample(
        self,
        call: Call,
        tiles: Tiles,
        conditioning: Mapping[str, np.ndarray],
        strength: float,
        source: np.ndarray | None = None,
        source_mask: np.ndarray | None = None,
        constrain: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Latents [1, C, H, W] of the size of ``tiles``; ``conditioning`` and source are as large. ``constrain`` takes
        each predicted picture [f H, f W, 3] to one that agrees with what is known."""

        def constrained(z: np.ndarray) -> np.ndarray:
            assert constrain is not None
            return self.encode(constrain(self.decode(z, tiles)), tiles)

        manifest = self._manifest
        text, negative = self._prompts.encode(call.prompt), self._prompts.encode(call.negative_prompt)
        name = manifest.depths.get(str(call.depth), "denoiser")
        shown = {key: tiles.cut(value) for key, value in conditioning.items() if value.ndim == 4}
        same = {key: value for key, value in conditioning.items() if value.ndim != 4}
        denoisers = [
            Denoiser(
                lambda values: self._denoised(name, values),
                manifest.graphs[name].inputs,
                {**text, **same, **{key: parts[i] for key, parts in shown.items()}},
                negative,
                call.guidance,
            )
            for i in range(tiles.count)
        ]

        def denoise(z: np.ndarray, t: float) -> np.ndarray:
            return tiles.join([one(part, t) for one, part in zip(denoisers, tiles.cut(z), strict=True)])

        def step(number: int, total: int, predicted: np.ndarray) -> None:
            if call.on_step is not None:
                call.on_step(Step(number, total, lambda: to_image(self.decode(predicted, tiles))))

        latents = sample(
            denoise,
            manifest.sampling.method,
            noise_times(manifest.sampling, call.steps, strength),
            Noise(call.seed),
            (1, manifest.latents.channels, *tiles.size),
            source=source,
            source_mask=source_mask,
            on_step=step,
            constrain=None if constrain is None else constrained,
        )
        if not np.isfinite(latents).all():
            raise FailureError("latents: not finite, the model diverged")
        return latents

    def _denoised(self, name: str, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of a denoiser's graph, rows without a source by that which has no input for one."""
        if WITHOUT_SOURCE not in self._manifest.graphs:
            return self._graphs.run(name, values)
        there = np.concatenate((values["source"], values["source_mask"]), 1).reshape(len(values["t"]), -1).any(1)
        rows: list[np.ndarray] = []
        parts: list[list[np.ndarray]] = []
        for graph, chosen in ((name, there), (WITHOUT_SOURCE, ~there)):
            if chosen.any():
                names = [value.name for value in self._manifest.graphs[graph].inputs]
                rows.append(np.flatnonzero(chosen))
                parts.append(self._graphs.run(graph, {name: values[name][chosen] for name in names}))
        order = np.concatenate(rows).argsort()
        return [np.concatenate(outputs)[order] for outputs in zip(*parts, strict=True)]

    def encode(self, image: np.ndarray, tiles: Tiles) -> np.ndarray:
        """[H, W, 3] in [0, 1] -> latents [1, C, H/f, W/f]."""
        images = np.ascontiguousarray(image.transpose(2, 0, 1)[None]) * 2 - 1
        return tiles.join([self._graphs.run("encoder", {"images": part})[0] for part in tiles.cut(images)])

    def decode(self, latents: np.ndarray, tiles: Tiles) -> np.ndarray:
        """Latents [1, C, H, W] -> [f H, f W, 3] in [0, 1]."""
        parts = [self._graphs.run("decoder", {"latents": part})[0] for part in tiles.cut(latents)]
        return (tiles.join(parts)[0].transpose(1, 2, 0) / 2 + np.float32(0.5)).clip(0, 1)
