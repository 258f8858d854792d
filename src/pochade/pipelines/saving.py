"""The folder of a model, written whole or not at all."""

import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

import pochade
from pochade.errors import FailureError, PochadeError
from pochade.pipelines.hub import INDEX, read_json
from pochade.pipelines.loading import WEIGHTS

_SHIM = '''"""Lets diffusers.DiffusionPipeline load this folder."""

from pochade import {name}

__all__ = ["{name}"]
'''


def write_folder(target: Path, class_name: str, write: Callable[[Path], None], dtype: torch.dtype | None) -> None:
    """``write`` a model into a temporary folder, complete it, and move it to ``target``.

    Files of an earlier model in ``target`` are replaced one by one, others stay.

    Raises:
        PochadeError: ``target`` is a file.
        FailureError: weights are not finite, or are not in ``dtype``; nothing is written.
    """
    if target.exists() and not target.is_dir():
        raise PochadeError(f"save_directory: {str(target)!r} is a file, a folder is needed")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        folder = Path(temporary) / target.name
        write(folder)
        _forget_origin(folder / INDEX)
        (folder / "pipeline.py").write_text(_SHIM.format(name=class_name), encoding="utf-8")
        for path in sorted(folder.glob(f"*/{WEIGHTS}*.safetensors")):
            # The identity of a text encoder is taken from its weights, so that rounding them would change it.
            cast = None if path.parent.name == "text_encoder" else dtype
            _rewrite(path, cast, {"component": path.parent.name, "pochade": pochade.__version__})
        if not target.is_dir():
            shutil.move(folder, target)
            return
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            place = target / path.relative_to(folder)
            place.parent.mkdir(exist_ok=True)
            path.replace(place)


def _rewrite(path: Path, dtype: torch.dtype | None, metadata: Mapping[str, str]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    if dtype is not None:
        weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    bad = [k for k, v in weights.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        raise FailureError(f"{path.parent.name}: not saved, not finite are the weights {', '.join(bad)}")
    temporary = path.with_name(f".{path.name}")
    save_file(weights, temporary, metadata={"format": "pt", **metadata})
    _sort_head(temporary)
    # safetensors writes for the owner alone; a model is for whoever may read the other files.
    temporary.chmod(path.with_name("config.json").stat().st_mode)
    temporary.replace(path)


def _forget_origin(index: Path) -> None:
    """Where a model was loaded from is a path of this machine, and no part of the model."""
    kept = {k: v for k, v in read_json(index).items() if k != "_name_or_path"}
    index.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _sort_head(path: Path) -> None:
    """safetensors writes its metadata in a random order: sorted, the same weights give the same file."""
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
        data = json.dumps(head, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        if len(data) <= length:
            file.seek(8)
            file.write(data.ljust(length))
