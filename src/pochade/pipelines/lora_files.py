"""LoRA files before torch is imported: where they are, with which weight, and on which model they were trained."""

import hashlib
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.tensor_files import read_head

WEIGHTS = "pytorch_lora_weights.safetensors"
"""The file in the folder of a LoRA, as diffusers names it."""
BASE, BASE_SHA256 = "base_model", "base_model_sha256"
"""Keys of its metadata: the name of the model that it was trained on, and ``weights_sha256`` of that."""
RANK, ALPHA, TRIGGER = "rank", "alpha", "trigger_words"
"""Likewise; the words are separated by commas."""
SHOWN = 12
"""Digits of a digest in a message."""


@dataclass(frozen=True)
class LoRAFile:
    """A LoRA as a request names it: its file, and the weight with which it is added to the model."""

    file: Path
    weight: float
    metadata: Mapping[str, str]


def parse_lora(text: str) -> tuple[Path, float]:
    """The place and the weight of ``PLACE:WEIGHT``, or of ``PLACE`` alone for 1.

    Raises PochadeError for a weight that is no finite number.
    """
    place, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text).expanduser(), 1.0
    try:
        value = float(weight)
    except ValueError:
        if not place or not Path(place).expanduser().exists():
            return Path(text).expanduser(), 1.0  # a colon of the path
        value = math.nan
    if not place or not math.isfinite(value):
        raise PochadeError(f"lora: {text!r} given, allowed is a folder, or FOLDER:WEIGHT with a finite weight")
    return Path(place).expanduser(), value


def find_lora(text: str) -> LoRAFile:
    """The LoRA that ``PLACE:WEIGHT`` names. Raises PochadeError where there is none, or its head is damaged."""
    place, weight = parse_lora(text)
    file = lora_file(place)
    return LoRAFile(file, weight, read_head(file)[1])


def lora_file(place: str | os.PathLike[str]) -> Path:
    """The file of a LoRA, given itself, its folder, or that of the training which saved it.

    Raises PochadeError where there is none.
    """
    return adapter_file(place, "lora", WEIGHTS)


def adapter_file(place: str | os.PathLike[str], argument: str, name: str) -> Path:
    """The file called ``name`` as ``lora_file`` finds that of a LoRA; errors name the ``argument``."""
    path = Path(place).expanduser()
    file = (hub.newest(path, name) or path) / name if path.is_dir() else path
    if not file.is_file() or file.suffix != ".safetensors":
        raise PochadeError(
            f"{argument}: {os.fspath(place)!r} given, allowed is a folder that holds {name}, that of a training which "
            "has saved one, or such a file"
        )
    return file


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the tensors of the denoiser of a model; "" where they are in no safetensors file.

    Of each tensor, by name: a line ``<name> <type> <shape>``, then its bytes. Other than that of the file, the digest
    stays the same when a model is saved again, by whichever version.
    """
    total = hashlib.sha256()
    files = sorted((folder / "denoiser").glob("*.safetensors"))
    for file in files:
        tensors, _ = read_head(file)
        with file.open("rb") as opened:
            start = 8 + struct.unpack("<Q", opened.read(8))[0]
            for name, entry in sorted(tensors.items()):
                first, last = entry["data_offsets"]
                total.update(f"{name} {entry['dtype']} {entry['shape']}\n".encode())
                opened.seek(start + first)
                total.update(opened.read(last - first))
    return total.hexdigest() if files else ""


def check_base(metadata: Mapping[str, str], lora: str, folder: Path, model: str) -> None:
    """Raises PochadeError where a LoRA says that it was trained on another model than that in ``folder``."""
    trained = metadata.get(BASE_SHA256)
    if not trained:
        return
    here = weights_sha256(folder)
    if here and here != trained:
        raise PochadeError(
            f"lora: {lora!r} was trained on {metadata.get(BASE, '?')!r} (weights {trained[:SHOWN]}), and {model!r} is "
            f"another model (weights {here[:SHOWN]}): allowed is a LoRA of the model"
        )


def find_loras(given: Sequence[str], folder: Path, model: str) -> tuple[LoRAFile, ...]:
    """The LoRAs that a request names for the model in ``folder``.

    Raises PochadeError where there is no such file, it is named twice, or it was trained on another model.
    """
    found = tuple(find_lora(text) for text in given)
    places = [lora.file.resolve() for lora in found]
    for text, place in zip(given, places, strict=True):
        if places.count(place) > 1:
            raise PochadeError(f"lora: {text!r} given twice, allowed is once, with the sum of the weights")
    for text, lora in zip(given, found, strict=True):
        check_base(lora.metadata, text, folder, model)
    return found
