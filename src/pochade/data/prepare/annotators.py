"""Networks that score and describe pictures while data are prepared, by name; each is loaded once a process."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from PIL import Image

from pochade.device import resolve_device
from pochade.errors import PochadeError
from pochade.load_transformers import load_transformers, loading

AESTHETIC = "aesthetic"
"""What a classifier of several classes calls the one whose probability is the score."""
LONGEST = 77
"""Tokens of a caption at most."""


@cache
def classifier(name: str) -> Callable[[Image.Image], float]:
    """A score of RGB pictures: the output of a classifier of one class, or the probability of the class "aesthetic".

    Raises:
        PochadeError: there is no such model, or none of its classes is called so.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    kind, device = "classifier of pictures", resolve_device("auto")
    network = load_transformers("score", kind, name, AutoModelForImageClassification).to(device)
    with loading("score", kind, name):
        processor: Any = AutoImageProcessor.from_pretrained(name)
    labels = {label.casefold(): number for number, label in network.config.id2label.items()}
    if len(labels) > 1 and AESTHETIC not in labels:
        raise PochadeError(f"score: {name!r} has the classes {', '.join(labels)}, one called {AESTHETIC!r} is needed")

    @torch.no_grad()
    def rate(image: Image.Image) -> float:
        logits = network(**processor(images=image, return_tensors="pt").to(device)).logits[0]
        return float(logits[0] if len(labels) == 1 else logits.softmax(0)[labels[AESTHETIC]])

    return rate


@cache
def captioner(name: str) -> Callable[[Image.Image], str]:
    """A caption of an RGB picture, by a model that needs no words to begin with, such as BLIP or GIT.

    Raises:
        PochadeError: there is no such model.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    kind, device = "model that describes pictures", resolve_device("auto")
    network = load_transformers("caption", kind, name, AutoModelForImageTextToText).to(device)
    with loading("caption", kind, name):
        processor: Any = AutoProcessor.from_pretrained(name)

    @torch.no_grad()
    def describe(image: Image.Image) -> str:
        inputs = processor(images=image, return_tensors="pt").to(device)
        tokens = network.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        return " ".join(processor.batch_decode(tokens, skip_special_tokens=True)[0].split())

    return describe
