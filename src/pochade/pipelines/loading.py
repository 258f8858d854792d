"""Components from the folder of a model: every tensor in its place, or an error that names all that are
not."""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from pochade.errors import PochadeError, nearest
from pochade.nn.undrawn import Undrawn
from pochade.pipelines.components import present_path, register_components
from pochade.pipelines.hub import component_classes, read_json, renamed, renamed_weight
from pochade.tensors import read_tensors
from pochade.text_encoders.base import ConfigOnly

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WEIGHTS = "diffusion_pytorch_model"


def load_components(
    folder: Path,
    given: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """The components that ``model_index.json`` names, in evaluation mode and in ``dtype`` whatever the files
    hold.

    Args:
        folder: of the model.
        given: components that are used as they are instead of those in the folder.
        dtype: of the floating parameters.
        variant: as in ``diffusion_pytorch_model.<variant>.safetensors``.
        allow_pickle: read ``.bin``, ``.pt`` and the like where there is no safetensors file (with
            ``weights_only=True``). A pickle can run code when it is loaded: only for files that you trust.

    Raises:
        PochadeError: a class is unknown, a file is missing, damaged or a pickle, or tensors are missing, too
            many, or of another shape: all of them are named.
    """
    register_components()
    components: dict[str, Any] = {}
    problems: list[str] = []
    for name, entry in component_classes(folder).items():
        if name in given:
            components[name] = given[name]
        elif entry is None:
            components[name] = None
        else:
            cls = _component_class(name, *entry)
            if issubclass(cls, SchedulerMixin) or issubclass(cls, ConfigOnly):
                read_config(folder / name)
                components[name] = cls.from_pretrained(folder / name)  # pyright: ignore[reportAttributeAccessIssue]
            else:
                components[name], found = _filled(cls, folder / name, variant, allow_pickle)
                problems += [f"{name}: {p}" for p in found]
            if isinstance(components[name], ModelMixin):
                components[name].eval()
                if components[name].dtype != dtype:
                    # diffusers' own ``to`` warns of modules to keep in float32: there are none
                    torch.nn.Module.to(components[name], dtype=dtype)
    if problems:
        raise PochadeError(f"{folder}: the weights do not fit the configuration: {'; '.join(problems)}")
    return components | dict(given)


def load_component(cls: type[Any], folder: Path) -> Any:
    """A network from its own folder, in evaluation mode and float32.

    Raises:
        PochadeError: a file is missing, damaged or a pickle, or tensors are missing, too many, or of another shape.
    """
    module, found = _filled(cls, folder, None, allow_pickle=False)
    if found:
        raise PochadeError(f"{folder}: the weights do not fit the configuration: {'; '.join(found)}")
    return module.float().eval()


def _filled(cls: type[Any], folder: Path, variant: str | None, allow_pickle: bool) -> tuple[torch.nn.Module, list[str]]:
    """The network in a folder, and what does not fit; it has its weights where nothing is wrong."""
    module = _build(cls, folder)
    weights = {renamed_weight(k): v for k, v in _read_weights(folder, variant, allow_pickle).items()}
    found = _mismatches(module, weights)
    if not found:
        module.load_state_dict(weights)
    return module, found


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a component (``config.json``, or ``scheduler_config.json`` of a scheduler)."""
    scheduler = folder / "scheduler_config.json"
    return read_json(scheduler if scheduler.is_file() else folder / "config.json")


def _component_class(name: str, module: str, cls: str) -> type[ConfigMixin]:
    # Only what is already imported: importing a module because a downloaded file names it would run its code.
    module, cls = present_path(module, cls)
    library = sys.modules.get(module)
    if library is None:
        known = [m for m in sys.modules if m.startswith("pochade.")]
        raise PochadeError(
            f"{name}: module {module!r} is not known here, import it before loading{nearest(module, known)}"
        )
    found = getattr(library, cls, None)
    if not (
        inspect.isclass(found) and issubclass(found, ConfigMixin) and issubclass(found, ModelMixin | SchedulerMixin)
    ):
        raise PochadeError(f"{name}: {cls!r} in {module!r} is no model and no scheduler")
    return found


def _build(cls: type[Any], folder: Path) -> torch.nn.Module:
    config = {k: v for k, v in renamed(read_config(folder)).items() if not k.startswith("_")}
    allowed = set(inspect.signature(cls.__init__).parameters) - {"self"}
    unknown = sorted(set(config) - allowed)
    if unknown:
        raise PochadeError(
            f"{folder / 'config.json'}: {', '.join(unknown)} given, which {cls.__name__} does not have"
            f"{nearest(unknown[0], allowed)}"
        )
    try:
        # What draws in another way must not move the caller's random state.
        with torch.random.fork_rng(devices=[]), Undrawn():
            return cls(**config)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise PochadeError(f"{folder / 'config.json'}: {cls.__name__} cannot be built: {reason}") from error


def _read_weights(folder: Path, variant: str | None, allow_pickle: bool) -> dict[str, Tensor]:
    path = folder / f"{WEIGHTS}{'.' + variant if variant else ''}.safetensors"
    if path.is_file():
        return read_tensors(path)
    pickles = sorted(p for p in folder.glob("*") if p.suffix in PICKLES)
    if not pickles:
        raise PochadeError(f"{path}: missing")
    if not allow_pickle:
        raise PochadeError(
            f"{pickles[0]}: a pickle where safetensors is expected; a pickle can run code when it is loaded: "
            "allow_pickle=True (--allow-pickle) reads it, only for files that you trust"
        )
    try:
        weights = torch.load(pickles[0], map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises a dozen kinds here, UnpicklingError, EOFError and RuntimeError among them.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PochadeError(f"{pickles[0]}: cannot be read with weights_only=True ({reason[0]})") from error
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise PochadeError(f"{pickles[0]}: a table of name and tensor is needed")
    return weights


def _mismatches(module: torch.nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    expected = module.state_dict()
    missing = [f"missing {k}" for k in expected if k not in weights]
    extra = [f"unexpected {k}" for k in weights if k not in expected]
    shapes = [
        f"{k} is {list(weights[k].shape)} instead of {list(expected[k].shape)}"
        for k in expected
        if k in weights and weights[k].shape != expected[k].shape
    ]
    return missing + extra + shapes
