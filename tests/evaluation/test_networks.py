"""Features of generated pictures, shared by processes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluation.test_copying import noise
from evaluation.test_external import Moments
from pochade.evaluation.generation import PictureStore
from pochade.evaluation.networks import BATCH, Networks, features_of
from pochade.evaluation.ranks import Ranks
from pochade.features.lite0 import load_lite0


def moments() -> Any:
    """A network as the user brings one: the mean of each channel, as features."""
    return torch.jit.script(Moments())


@dataclass(frozen=True)
class Collected(Ranks):
    """One of several processes; what they give is collected in a list."""

    given: list[Any] = field(default_factory=list[Any])

    def gather(self, value: Any) -> list[Any] | None:
        self.given.append(value)
        return self.given if self.main else None


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_each_batch_is_seen_by_one_process_and_all_are_put_in_order(tmp_path: Path) -> None:
    images: Tensor = noise(2 * BATCH + 5, 0, size=32)
    prompts = [f"picture {i}" for i in range(len(images))]
    store = PictureStore(tmp_path, {})
    for i, image in enumerate(images):
        store.write(prompts[i], 7 + i, image)
    networks = Networks(load_lite0())
    alone = features_of(networks, store, prompts, 7)
    given: list[Any] = []
    heard: list[int] = []
    assert features_of(networks, store, prompts, 7, Collected(1, 2, given)) is None
    found = features_of(networks, store, prompts, 7, Collected(0, 2, given), heard.append)
    assert [sorted(part) for part in given] == [[1], [0, 2]]
    assert sum(heard) == len(images)
    assert alone is not None
    assert found is not None
    assert list(found) == ["lite0"]
    assert torch.equal(found["lite0"], alone["lite0"])
    both = features_of(Networks(load_lite0(), moments()), store, prompts, 7)
    assert both is not None
    torch.testing.assert_close(both["inception"], images.float().mean((2, 3)))
    assert torch.equal(found["lite0"][:BATCH], networks.features(images[:BATCH], prompts[:BATCH])["lite0"])
