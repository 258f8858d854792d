"""Which form of the scans runs on which device."""

import functools
import importlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal, get_args

import torch

from pochade.errors import PochadeError, nearest
from pochade.nn.scan import composed

Backend = Literal["torch", "numba", "triton"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)
_MODULES: dict[str, str] = {"numba": "pochade.nn.scan.cpu_kernels", "triton": "pochade.nn.scan.triton_kernels"}
_DEVICES: dict[str, Backend] = {"cpu": "numba", "cuda": "triton"}

_chosen: Backend | None = None


def backend(device: torch.device | str) -> Backend:
    """The form that the scans take on ``device``: "numba" on CPUs, "triton" on NVIDIA and AMD GPUs, else "torch".

    Where the library of a form is not installed, "torch" stands in. ``use_backend`` and the environment variable
    ``POCHADE_SCAN`` choose another.

    Raises:
        PochadeError: there is no such device, or the chosen form does not run on it or is not installed.
    """
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        forms = f"use_backend chooses of {', '.join(BACKENDS)}"
        raise PochadeError(
            f"device: {device!r} given, allowed is a device such as 'cpu' or 'cuda:0'; {forms}"
        ) from None
    chosen = _chosen or _known(os.environ.get("POCHADE_SCAN", ""), "POCHADE_SCAN")
    if chosen is None:
        usual = _DEVICES.get(kind, "torch")
        return usual if usual == "torch" or _load(usual) is not None else "torch"
    if chosen != "torch" and _DEVICES.get(kind) != chosen:
        allowed = " and ".join(("torch", *(form for device, form in _DEVICES.items() if device == kind)))
        raise PochadeError(f"backend: {chosen} given for tensors on {kind}, allowed there are {allowed}")
    if chosen != "torch" and _load(chosen) is None:
        raise PochadeError(f"backend: {chosen} is not installed: pip install {chosen}")
    return chosen


@contextmanager
def use_backend(name: Backend | None) -> Generator[None]:
    """Within it every scan takes the form ``name``, in all threads; None returns to the device's own.

    Raises:
        PochadeError: there is no form of that name.
    """
    global _chosen  # noqa: PLW0603  # the backward pass runs in other threads, which a context variable does not reach
    before, _chosen = _chosen, _known(name or "", "backend")
    try:
        yield
    finally:
        _chosen = before


def form(device: torch.device) -> ModuleType:
    """The module that computes the scans on ``device``."""
    name = backend(device)
    module = composed if name == "torch" else _load(name)
    assert module is not None
    return module


def _known(name: str, argument: str) -> Backend | None:
    if not name:
        return None
    for known in BACKENDS:
        if name == known:
            return known
    raise PochadeError(f"{argument}: {name!r} given, allowed are {', '.join(BACKENDS)}{nearest(name, BACKENDS)}")


@functools.cache
def _load(name: Backend) -> ModuleType | None:
    try:
        return importlib.import_module(_MODULES[name])
    except ImportError:
        return None
