"""What gives the features of a reference picture."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from pochade.errors import PochadeError
from pochade.features import style
from pochade.features.lite0 import load_lite0
from text_encoders.folders import clip_folder


def pictures(size: tuple[int, int] = (128, 128)) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_lite0_is_mean_and_deviation_of_each_map() -> None:
    encoder = style.load("lite0:5")
    found = encoder(pictures())
    assert found.shape == (2, 1, encoder.dim)
    assert (encoder.dim, encoder.identity) == (1024, "lite0:5")
    usual = style.Lite0Style(load_lite0())
    assert (usual.dim, usual.identity) == (160, "lite0")
    assert torch.equal(usual(pictures()), found[..., :160])
    rest = found[:, 0]
    for x in usual.net.maps(pictures()):
        for expected in (x.mean((2, 3)), x.std((2, 3))):
            part, rest = rest.split([expected.shape[1], rest.shape[1] - expected.shape[1]], 1)
            torch.testing.assert_close(part, expected)
    assert rest.shape[1] == 0


def test_lite0_takes_any_size_and_forgets_places() -> None:
    encoder = style.load("lite0")
    assert encoder(pictures((40, 90))).shape == (2, 1, 160)
    image = torch.full((1, 3, 128, 128), 1.0)
    image[:, 1:, 40:72, 20:52] = -0.5
    moved, recoloured = image.roll((16, 32), (2, 3)), image.flip(1)
    one = encoder(image)
    assert (encoder(moved) - one).norm() < 0.2 * (encoder(recoloured) - one).norm()
    assert style.load("lite0") is encoder


def test_clip_is_the_embedding_of_its_image_tower(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip", whole=True)
    encoder = style.load(f"clip:{folder}")
    assert (encoder.dim, encoder.identity) == (8, f"clip:{folder}")
    found = encoder(pictures((8, 8)))
    assert found.shape == (2, 1, 8)
    torch.testing.assert_close(found.square().mean(-1), torch.ones(2, 1), atol=1e-4, rtol=0)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (style.CLIP_MEAN, style.CLIP_STD))
    pixels = (pictures((8, 8)) / 2 + 0.5 - mean) / std
    words = torch.zeros(2, 4, dtype=torch.int64)
    expected = CLIPModel.from_pretrained(folder)(input_ids=words, pixel_values=pixels).image_embeds
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(found[:, 0], expected), torch.ones(2))
    assert encoder(pictures((20, 31))).shape == (2, 1, 8)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_what_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match=r"encoder: 'lite1' is unknown, allowed are lite0, .*did you mean 'lite0'"):
        style.load("lite1")
    with pytest.raises(PochadeError, match="encoder: no CLIP could be loaded from"):
        style.load(f"clip:{tmp_path / 'none'}")
    text_alone = clip_folder(tmp_path / "text")
    with pytest.raises(PochadeError, match=r"encoder: "):
        style.load(f"clip:{text_alone}")
