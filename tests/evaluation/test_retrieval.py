"""The retrieval probe: perfect with informative features, chance with uninformative ones, exact in between."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.errors import PochadeError
from pochade.evaluation import retrieval
from pochade.evaluation.retrieval import RetrievalProbe, _probability_of_fewer, precision_of


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def names(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def test_linear_world_is_read_perfectly() -> None:
    features = normal(600, 24, 0)
    embeddings = F.normalize(features - features[:400].mean(0), dim=1) @ normal(24, 32, 1)
    probe = RetrievalProbe.fit(features[:400], embeddings[:400], ridge=1e-3)
    unseen = probe.precision(features[400:], embeddings[400:], names(200))
    assert unseen.top1 == pytest.approx(1.0)
    assert unseen.candidates == 100
    assert unseen.pictures == 200


def test_uninformative_features_give_chance() -> None:
    probe = RetrievalProbe.fit(normal(400, 24, 0), normal(400, 32, 1))
    blind = probe.precision(normal(2000, 24, 2), normal(2000, 32, 3), names(2000))
    assert blind.top1 == pytest.approx(0.01, abs=4 * blind.standard_error1)
    assert blind.top5 == pytest.approx(0.05, abs=4 * blind.standard_error5)
    assert blind.as_dict()["chance R@1"] == 0.01


def test_ridge_is_the_penalised_least_squares_solution() -> None:
    features, embeddings = normal(30, 6, 0), F.normalize(normal(30, 4, 1), dim=1)
    probe = RetrievalProbe.fit(features, embeddings, ridge=0.7)
    x = F.normalize(features - features.mean(0), dim=1).double()
    weights = probe.weights.clone().requires_grad_()
    ((x @ weights - embeddings.double()).square().sum() + 0.7 * weights.square().sum()).backward()
    assert weights.grad is not None
    assert weights.grad.abs().max() < 1e-5


def test_expectation_equals_drawing() -> None:
    probe = RetrievalProbe.fit(normal(50, 8, 0), normal(50, 6, 1))
    features, embeddings = normal(12, 8, 2), normal(12, 6, 3)
    given = probe.precision(features, embeddings, names(12), candidates=8)
    scores = probe.predict(features) @ F.normalize(embeddings.double(), dim=1).T
    hits = {1: [], 5: []}
    for i in range(12):
        others = [j for j in range(12) if j != i]
        for drawn in itertools.combinations(others, 7):
            above = int((scores[i, list(drawn)] >= scores[i, i]).sum())
            for k, found in hits.items():
                found.append(above < k)
    assert given.top1 == pytest.approx(np.mean(hits[1]))
    assert given.top5 == pytest.approx(np.mean(hits[5]))


def test_hypergeometric_edges() -> None:
    marked = np.array([0, 1, 99, 100])
    assert _probability_of_fewer(1, 100, marked, 10).tolist() == pytest.approx([1, 0.9, 0, 0])
    assert _probability_of_fewer(5, 100, marked, 3).tolist() == pytest.approx([1, 1, 1, 1])
    assert _probability_of_fewer(1, 100, marked, 100).tolist() == pytest.approx([1, 0, 0, 0])


def test_the_same_caption_never_counts_as_wrong() -> None:
    features = normal(40, 8, 0)
    embeddings = F.normalize(features - features.mean(0), dim=1) @ normal(8, 16, 1)
    probe = RetrievalProbe.fit(features, embeddings, ridge=1e-3)
    # Every picture twice: with groups of two, still perfect; as strangers, ties make it fail.
    twice, captions = features.repeat(2, 1), embeddings.repeat(2, 1)
    assert probe.precision(twice, captions, names(40) * 2).top1 == pytest.approx(1.0)
    assert probe.precision(twice, captions, names(80), candidates=80).top1 == 0.0


@pytest.mark.parametrize("pictures", [7, 8, 9, 17])
def test_blocks_of_pictures_give_what_all_at_once_give(pictures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = RetrievalProbe.fit(normal(50, 8, 0), normal(50, 6, 1))
    features, embeddings = normal(pictures, 8, 2), normal(20, 6, 3)
    groups = [str(i // 2) for i in range(20)]
    whole = probe.hits(features, embeddings, groups, 6)
    monkeypatch.setattr(retrieval, "BLOCK", 8)
    done: list[int] = []
    parts = probe.hits(features, embeddings, groups, 6, advance=done.append)
    assert all(np.array_equal(parts[k], whole[k]) for k in (1, 5))
    assert sum(done) == pictures


def test_several_pictures_of_a_caption() -> None:
    probe = RetrievalProbe.fit(normal(50, 8, 0), normal(50, 6, 1))
    features, embeddings = normal(12, 8, 2), normal(9, 6, 3)
    found = probe.hits(features, embeddings, names(9), 5, per_caption=3)
    for part in range(3):  # picture i is of caption i % 4
        alone = probe.hits(features[4 * part : 4 * part + 4], embeddings, names(9), 5)
        assert all(np.array_equal(found[k][4 * part : 4 * part + 4], alone[k]) for k in (1, 5))
    precision = precision_of(found, names(9), 5, per_caption=3)
    of_captions = found[1].reshape(3, 4).mean(0)
    assert precision.top1 == pytest.approx(found[1].mean())
    assert precision.standard_error1 == pytest.approx(of_captions.std() / 2)
    assert (precision.pictures, precision.candidates) == (12, 5)
    with pytest.raises(PochadeError, match="groups: 9"):
        probe.hits(features, embeddings, names(9), per_caption=5)


def test_more_captions_than_pictures() -> None:
    probe = RetrievalProbe.fit(normal(50, 8, 0), normal(50, 6, 1))
    features, embeddings = normal(150, 8, 2), normal(150, 6, 3)
    some = probe.precision(features[:20], embeddings, names(150))
    each = [probe.precision(features[i : i + 1], embeddings.roll(-i, 0), names(150)).top1 for i in range(20)]
    assert some.candidates == 100
    assert some.top1 == pytest.approx(np.mean(each))


def test_few_captions_are_all_candidates() -> None:
    probe = RetrievalProbe.fit(normal(9, 8, 0), normal(9, 16, 1))
    assert probe.precision(normal(9, 8, 0), normal(9, 16, 1), names(9)).candidates == 9


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(PochadeError, match="caption_embeddings"):
        RetrievalProbe.fit(normal(4, 3, 0), normal(5, 3, 0))
    with pytest.raises(PochadeError, match="ridge: 0"):
        RetrievalProbe.fit(normal(4, 3, 0), normal(4, 3, 0), ridge=0)
    probe = RetrievalProbe.fit(normal(4, 3, 0), normal(4, 3, 0))
    with pytest.raises(PochadeError, match="groups: 3"):
        probe.precision(normal(4, 3, 0), normal(4, 3, 0), names(3))
    with pytest.raises(PochadeError, match="candidates"):
        probe.precision(normal(4, 3, 0), normal(4, 3, 0), ["one"] * 4)
