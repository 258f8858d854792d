"""The folder of a model, written whole or not at all."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

import pochade
from pochade.errors import FailureError, PochadeError
from pochade.files import atomic_folder, write_text
from pochade.pipelines.hub import INDEX, read_json
from pochade.pipelines.loading import WEIGHTS
from pochade.tensors import read_tensors, write_tensors, writing

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
    with atomic_folder(target, replace="files") as folder:
        with writing(target):
            write(folder)
        _forget_origin(folder / INDEX)
        write_text(folder / "pipeline.py", _SHIM.format(name=class_name))
        for path in sorted(folder.glob(f"*/{WEIGHTS}*.safetensors")):
            # The identity of a text encoder is taken from its weights, so that rounding them would change it.
            cast = None if path.parent.name == "text_encoder" else dtype
            _rewrite(path, cast, {"component": path.parent.name, "pochade": pochade.__version__})


def _rewrite(path: Path, dtype: torch.dtype | None, metadata: Mapping[str, str]) -> None:
    weights = read_tensors(path)
    if dtype is not None:
        weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    bad = [k for k, v in weights.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        raise FailureError(f"{path.parent.name}: not saved, not finite are the weights {', '.join(bad)}")
    write_tensors(path, weights, metadata)


def _forget_origin(index: Path) -> None:
    """Where a model was loaded from is a path of this machine, and no part of the model."""
    kept = {k: v for k, v in read_json(index).items() if k != "_name_or_path"}
    write_text(index, json.dumps(kept, indent=2, sort_keys=True) + "\n")
