"""The attention to an image prompt: its equation, what is none, and what is common to all pictures."""

import pytest
import torch
from torch import Tensor

from pochade.errors import PochadeError
from pochade.nn.image_prompt import TOKENS, ImagePromptAttention


def branch() -> ImagePromptAttention:
    torch.manual_seed(0)
    return ImagePromptAttention(6, 8, 2, 3)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.no_grad()
def test_the_equation_token_by_token() -> None:
    """2308.06721 eq. 5, second term: softmax(Q K^T / sqrt(d)) V over the tokens of each image prompt."""
    net, x, features = branch(), noise(2, 5, 8), noise(2, 3, 6)
    read = net.read(features, torch.tensor([0.5, 2.0]))
    assert read.tokens.shape == (2, 3 * TOKENS, 8)
    for block, attention in enumerate(net.attentions):
        query = attention.query(x).view(2, 5, 2, 4)
        key, value = (part.view(2, -1, 2, 4) for part in attention.key_value(read.tokens).chunk(2, -1))
        query, key = attention.query_norm(query), attention.key_norm(key)
        weights = (torch.einsum("bnhd,bmhd->bhnm", query, key) / 2).softmax(-1)
        mixed = torch.einsum("bhnm,bmhd->bnhd", weights, value).flatten(2)
        expected = attention.out(mixed) * torch.tensor([0.5, 2.0])[:, None, None]
        torch.testing.assert_close(net(x, block, read), expected)


@torch.no_grad()
def test_zeros_are_no_prompt_and_samples_are_independent() -> None:
    net, x, features = branch(), noise(3, 5, 8), noise(3, 1, 6)
    net.standardise(noise(6), torch.ones(6))
    features[1] = 0
    read = net.read(features, None)
    assert read.scale.flatten().tolist() == [1, 0, 1]
    added = net(x, 0, read)
    assert added[1].eq(0).all()
    for i in (0, 2):
        alone = net(x[i : i + 1], 0, net.read(features[i : i + 1], None))
        torch.testing.assert_close(added[i : i + 1], alone)
    off = net.read(features, torch.zeros(3))
    assert net(x, 0, off).eq(0).all()


@torch.no_grad()
def test_features_count_by_their_deviations() -> None:
    net, features = branch(), noise(2, 1, 6)
    before = net.read(features, None).tokens
    mean, deviation = noise(6) + 3, torch.rand(6) + 0.5
    net.standardise(mean, deviation)
    torch.testing.assert_close(net.read(features * deviation + mean, None).tokens, before)
    # What never varied carries no information, whatever it is; neither does what varies by rounding alone.
    deviation[0], deviation[1] = 0, 1e-4
    net.standardise(mean, deviation)
    other = features.clone()
    other[..., :2] += 5
    assert torch.equal(net.read(features, None).tokens, net.read(other, None).tokens)
    assert torch.isfinite(torch.cat([value.flatten() for value in net.half().state_dict().values()])).all()


def test_all_blocks_read_one_image_prompt() -> None:
    net = branch()
    assert len({id(p) for p in net.attentions.parameters()}) == 3 * len(list(net.attentions[0].parameters()))
    for wrong in (0, -1):
        with pytest.raises(PochadeError, match=f"image_prompt_dim: {wrong} given, allowed is 0 and more"):
            ImagePromptAttention(wrong, 8, 2, 3)
