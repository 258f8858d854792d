"""Latents and text vectors made while they are needed: where the encoder is cheap, or the data are endless."""

import torch
from torch import Tensor

from pochade.data.cache.latents import LatentEncoders
from pochade.data.dataset import Dataset, Shape
from pochade.data.samples import Batch, PictureSamples, Samples, Stream, decode
from pochade.errors import PochadeError
from pochade.nn.keyed_random import keyed_integers


def encode_on_the_fly(dataset: Dataset, size: int | Shape, encoders: LatentEncoders) -> Samples:
    """The batches of ``pochade.data.cache.latents.cache_latents``, but for rounding, without a cache.

    They come from the device of the encoders, which are run by the thread that requests a batch.

    Raises:
        PochadeError: there are no pictures.
    """
    if len(dataset) == 0:
        raise PochadeError("dataset: it holds no pictures")
    return _Encoded(dataset, size, encoders)


class _Encoded(PictureSamples):
    def __init__(self, dataset: Dataset, size: int | Shape, encoders: LatentEncoders) -> None:
        super().__init__(dataset)
        self.encoders = encoders
        self.width, self.height = (size, size) if isinstance(size, int) else size

    @torch.no_grad()
    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        pictures: list[int] = self.groups.draw(indices, keys).tolist()
        items = [self.dataset.item(picture) for picture in pictures]
        latents = self.encoders.encode_images(decode(self.dataset, pictures, self.width, self.height)).float()
        batch: Batch = {"latents": latents, "name": [item.name for item in items]}
        if self.dataset.classes:
            return {**batch, "class_label": torch.tensor([-1 if item.label is None else item.label for item in items])}
        counts = torch.tensor([len(item.captions) for item in items])
        chosen = keyed_integers(keys, counts, Stream.CAPTION).tolist()
        captions = [item.captions[place] for item, place in zip(items, chosen, strict=True)]
        if self.encoders.encode_text is None:
            return {**batch, "caption": captions}
        text = self.encoders.encode_text(captions)
        # Through float16, as from a cache.
        return {**batch, "tokens": text.tokens.half().float(), "mask": text.mask, "pooled": text.pooled.half().float()}
