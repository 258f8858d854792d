"""Features of generated pictures, and scores, by networks: work that the processes of an evaluation share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pochade.evaluation.external import Clip, clip_scores, inception_features
from pochade.evaluation.generation import ALONE, PictureStore
from pochade.evaluation.pictures import pooled_features
from pochade.evaluation.ranks import Ranks
from pochade.features.lite0 import EfficientNetLite0

BATCH = 32
"""Pictures that a network sees at once."""

Features = dict[str, Tensor]
"""Of m pictures, by network: of "lite0" [m, 1280], and where there are weights for them of "inception" [m, 2048] and
the scores by "clip" [m]."""


@dataclass(frozen=True)
class Networks:
    """EfficientNet-Lite0, and extractors whose weights the user brings; None where there are none."""

    lite0: EfficientNetLite0
    inception: torch.jit.ScriptModule | None = None
    clip: Clip | None = None

    def features(self, images: Tensor, captions: list[str]) -> Features:
        """Of uint8 images [m, 3, H, W], and the score of each with its own caption."""
        found = {"lite0": pooled_features(self.lite0, images)}
        if self.inception is not None:
            found["inception"] = inception_features(self.inception, images)
        if self.clip is not None:
            found["clip"] = clip_scores(self.clip, images, captions)
        return found


def features_of(
    networks: Networks,
    store: PictureStore,
    prompts: Sequence[str],
    seed: int,
    ranks: Ranks = ALONE,
    advance: Callable[[int], object] = lambda _: None,
) -> Features | None:
    """What ``networks`` give for the pictures of ``prompts`` that ``store`` has, picture i of the seed ``seed + i``.

    ``ranks`` take turns with the batches, which are the same whoever takes them; the first one gets all, the others
    None. ``advance`` hears how many are done.
    """
    own: dict[int, Features] = {}
    done = 0
    for number, start in enumerate(range(0, len(prompts), BATCH)):
        rows = range(start, min(start + BATCH, len(prompts)))
        if ranks.owns(number):
            images = torch.stack([store.read(prompts[i], seed + i) for i in rows])
            own[number] = networks.features(images, [prompts[i] for i in rows])
            done += len(rows)
            advance(len(rows))
    gathered = ranks.gather(own)
    if gathered is None:
        return None
    advance(len(prompts) - done)
    parts = {number: part for one in gathered for number, part in one.items()}
    return {name: torch.cat([parts[number][name] for number in range(len(parts))]) for name in parts[0]}
