"""LoRAs in a pipeline: diffusers' own methods, and reading and writing the files."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LoraBaseMixin
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.utils.constants import USE_PEFT_BACKEND
from torch import Tensor, nn

import pochade
from pochade.arguments import check_number, path_text, shown
from pochade.errors import PochadeError, missing_extra, nearest
from pochade.files import check_absent
from pochade.pipelines.lora_files import WEIGHTS, LoRAFile, check_base, lora_file
from pochade.pipelines.tensor_files import read_head
from pochade.tensors import read_tensors, write_tensors

COMPONENTS = ("denoiser", "text_encoder")
"""What a LoRA can adapt; also how the names in a file begin."""
NAMED = 3
"""Tensors that an error names, at most."""
CONFIG = ("r", "lora_alpha", "use_dora")
"""The fields of peft's configuration that a file keeps, beside the layers."""


def check_peft() -> None:
    """Raises PochadeError, which says what to install, where peft is missing."""
    if not USE_PEFT_BACKEND:
        raise missing_extra("peft", "lora")


class LoRAMixin(LoraBaseMixin):
    """LoRAs in a pipeline with a ``denoiser``, and in its ``text_encoder`` where that is trained along with it.

    ``set_adapters``, ``fuse_lora``, ``unfuse_lora``, ``unload_lora_weights``, ``delete_adapters``, ``disable_lora``,
    ``get_active_adapters`` and the like are diffusers'.
    """

    @property
    def _lora_loadable_modules(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return [name for name in COMPONENTS if isinstance(getattr(self, name), PeftAdapterMixin)]

    def load_lora_weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike[str] | Mapping[str, Tensor],
        adapter_name: str | None = None,
    ) -> None:
        """Add a LoRA to the model; ``set_adapters`` then chooses among those that are loaded, and their weights.

        Args:
            pretrained_model_name_or_path_or_dict: the folder of a LoRA, its file, or its tensors.
            adapter_name: what it is called from now on; None for default_0, default_1 and so on.

        Raises:
            PochadeError: there is no such file, the name is taken or has a dot, the LoRA was trained on another model,
                or its tensors fit none of this one's layers; nothing is loaded then.
        """
        check_peft()
        from diffusers.utils.peft_utils import get_adapter_name

        given, configs = pretrained_model_name_or_path_or_dict, {}
        if isinstance(given, Mapping):
            tensors = dict(given)
            place = "the given tensors"
        else:
            file, place = lora_file(given), os.fspath(given)
            metadata = read_head(file)[1]
            folder = dict(self.config).get("_name_or_path")  # pyright: ignore[reportAttributeAccessIssue]
            if folder:
                check_base(metadata, place, Path(folder), folder)
            configs = json.loads(metadata.get(LORA_ADAPTER_METADATA_KEY, "{}"))
            tensors = read_tensors(file)
        networks: dict[str, Any] = {name: getattr(self, name) for name in self._lora_loadable_modules}
        ranks = {name: _part(configs, name).get("r") for name in networks}
        _check_tensors(tensors, networks, ranks, place)
        name = adapter_name or get_adapter_name(networks["denoiser"])
        if "." in name:
            raise PochadeError(f"adapter_name: {name!r} given, allowed is a name without a dot")
        taken = {other for loaded in self.get_list_adapters().values() for other in loaded}
        if name in taken:
            raise PochadeError(f"adapter_name: {name!r} is taken, allowed is another than {', '.join(sorted(taken))}")
        for component, network in networks.items():
            part, config = _part(tensors, component), _part(configs, component)
            if not part:
                continue
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")  # several are meant
                network.load_lora_adapter(part, prefix=None, adapter_name=name, metadata=config or None)

    def save_lora_weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        save_directory: str | os.PathLike[str],
        adapter_name: str = "default",
        *,
        dtype: torch.dtype | None = torch.float16,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write a loaded or trained adapter as ``pytorch_lora_weights.safetensors`` into a folder.

        Args:
            save_directory: the folder.
            adapter_name: of the adapter.
            dtype: of the file; None keeps every bit.
            metadata: words about it that are stored in the head of the file.

        Raises:
            PochadeError: there is no such adapter, or ``save_directory`` is a URL or has such a file.
            FailureError: the file cannot be written.
        """
        check_peft()
        from peft import get_peft_model_state_dict

        tensors: dict[str, Tensor] = {}
        configs: dict[str, Any] = {}
        self._check_adapters(adapter_name)
        folder = Path(path_text("save_directory", save_directory))
        check_absent("save_directory", folder, [WEIGHTS])
        loaded = self.get_list_adapters()
        for component in [name for name, adapters in loaded.items() if adapter_name in adapters]:
            network = getattr(self, component)
            state = get_peft_model_state_dict(network, adapter_name=adapter_name, save_embedding_layers=False)
            cast = {k: v if dtype is None else v.to(dtype) for k, v in state.items()}
            tensors |= {f"{component}.{name}": value for name, value in cast.items()}
            config = network.peft_config[adapter_name]
            kept = {name: getattr(config, name) for name in CONFIG}
            kept["target_modules"] = sorted({name.partition(".lora_")[0] for name in state})
            configs |= {f"{component}.{name}": value for name, value in kept.items()}
        head = {LORA_ADAPTER_METADATA_KEY: json.dumps(configs), "pochade": pochade.__version__, **(metadata or {})}
        write_tensors(folder / WEIGHTS, tensors, head)

    def set_adapters(
        self,
        adapter_names: list[str] | str,
        adapter_weights: float | dict[str, Any] | list[float] | list[dict[str, Any]] | None = None,
    ) -> None:
        """diffusers' ``set_adapters``.

        Raises:
            PochadeError: there is no such adapter, adapters are fused, there are more or fewer weights than adapters, a
                weight is no finite number, or one is for a component that has no adapters; before any is set.
        """
        self._check_adapters(adapter_names)
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        weights: Any = list(adapter_weights) if isinstance(adapter_weights, tuple) else adapter_weights
        _check_weights(weights, self._lora_loadable_modules)
        if isinstance(weights, list) and len(weights) != len(names):
            raise PochadeError(
                f"adapter_weights: {len(weights)} given for {len(names)} adapters, allowed is one, or one each"
            )
        if any(layer.merged for layer in self._lora_layers()):
            raise PochadeError("adapter_names: given while adapters are fused, allowed after unfuse_lora")
        super().set_adapters(names, weights)

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """diffusers' ``delete_adapters``. Raises PochadeError where there is no such adapter, before any is deleted."""
        self._check_adapters(adapter_names)
        super().delete_adapters(adapter_names)

    def fuse_lora(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        *,
        adapter_names: list[str] | str | None = None,
        **options: Any,
    ) -> None:
        """diffusers' ``fuse_lora``, of all components by default: the active adapters, or those that are named, become
        part of the weights, each with its weight times ``lora_scale``.

        Raises:
            PochadeError: no adapter is loaded, there is no such adapter or component, or ``lora_scale`` is no finite
                number.
        """
        check_number("lora_scale", lora_scale)
        if not self._adapters():
            raise PochadeError("fuse_lora: no adapter is loaded; load_lora_weights loads one")
        self._check_adapters(adapter_names or [])
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for layer in self._lora_layers(components):
            # diffusers scales all that are active, and leaves them so.
            fused = set(names or layer.active_adapters) & layer.scaling.keys() - set(layer.merged_adapters)
            layer.weights_before_fusing = {name: layer.scaling[name] for name in fused} | _before_fusing(layer)
            for name in fused:
                layer.scaling[name] *= lora_scale
        super().fuse_lora(components or self._lora_loadable_modules, adapter_names=names, **options)

    def unfuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        """diffusers' ``unfuse_lora``, of all components by default: weights are what they were, up to rounding.

        Raises PochadeError where there is no such component.
        """
        layers = self._lora_layers(components)
        super().unfuse_lora(components or self._lora_loadable_modules, **options)
        for layer in layers:
            layer.scaling |= _before_fusing(layer)
            layer.weights_before_fusing = {}

    def disable_lora(self) -> None:
        """diffusers' ``disable_lora``; of adapters that are fused it undoes that too."""
        known = self._lora_loadable_modules
        fused = [name for name in known if any(layer.merged for layer in self._lora_layers([name]))]
        if fused:
            self.unfuse_lora(fused)
        super().disable_lora()

    def _lora_layers(self, components: list[str] | None = None) -> list[Any]:
        """The layers with adapters of all components, or of some. Raises PochadeError for an unknown component."""
        known = self._lora_loadable_modules
        for name in components or known:
            if name not in known:
                raise PochadeError(f"components: {shown(name)} given, allowed are {', '.join(known)}")
        return [layer for name in components or known for _, layer in lora_layers(getattr(self, name))]

    def _adapters(self) -> list[str]:
        return sorted({name for adapters in self.get_list_adapters().values() for name in adapters})

    def _check_adapters(self, given: list[str] | str) -> None:
        known = self._adapters()
        for name in [given] if isinstance(given, str) else given:
            if name not in known:
                raise PochadeError(
                    f"adapter_name: {shown(name)} given, allowed are {', '.join(known) or 'none'}{nearest(name, known)}"
                )

    def has_adapters(self) -> bool:
        """Whether layers are wrapped by those of adapters, active or not."""
        return any(bool(getattr(self, name)._hf_peft_config_loaded) for name in self._lora_loadable_modules)


def lora_layers(network: nn.Module) -> list[tuple[str, Any]]:
    """The layers of a network that have adapters, by name."""
    if not getattr(network, "_hf_peft_config_loaded", False):
        return []
    from peft.tuners.lora import LoraLayer

    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, LoraLayer)]


def adapters_in_use(network: nn.Module) -> list[tuple[object, ...]]:
    """What of adapters changes the output of a network without changing a tensor: of each layer that has some, its
    name, whether they are switched off, those that are fused, and the active ones with their weights."""
    return [
        (
            name,
            layer.disable_adapters,
            sorted(layer.merged_adapters),
            sorted((adapter, layer.scaling[adapter]) for adapter in layer.active_adapters if adapter in layer.scaling),
        )
        for name, layer in lora_layers(network)
    ]


def merge_loras(pipe: Any, loras: Sequence[LoRAFile]) -> None:
    """Add LoRAs to the weights of a pipeline, which has no adapters afterwards. Raises as ``load_lora_weights``."""
    if not loras:
        return
    names = [f"lora_{number}" for number in range(1, len(loras) + 1)]
    for name, lora in zip(names, loras, strict=True):
        pipe.load_lora_weights(lora.file, adapter_name=name)
    pipe.set_adapters(names, [lora.weight for lora in loras])
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    encoder = pipe.text_encoder
    if encoder is not None:  # the identity of one that is trained along is taken from its weights
        pipe.denoiser.register_to_config(text_encoder=encoder.identity)


def _part(values: Mapping[str, Any], component: str) -> dict[str, Any]:
    start = f"{component}."
    return {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}


def _before_fusing(layer: Any) -> dict[str, float]:
    return vars(layer).get("weights_before_fusing", {})


def _check_weights(given: Any, components: Sequence[str]) -> None:
    """Raises PochadeError where a weight, alone, in a list or of a component, is no finite number."""
    for weight in given if isinstance(given, list) else [given]:
        parts = weight if isinstance(weight, Mapping) else {}
        for name in parts:
            if name not in components:
                raise PochadeError(f"adapter_weights: {shown(name)} given, allowed are {', '.join(components)}")
        for part in parts.values() if parts else [weight]:
            check_number("adapter_weights", part)


def _check_tensors(
    tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module], ranks: Mapping[str, int | None], place: str
) -> None:
    """Raises PochadeError where a tensor of a LoRA has no layer, or not its shape, or one of A and B is missing."""
    layers = {
        f"{component}.{name.removesuffix('.base_layer')}": module
        for component, network in networks.items()
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    }
    wrong: list[str] = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            wrong.append(f"{name} is {shown(tensor)}, no tensor")
            continue
        layer, _, kind = name.partition(".lora_")
        found = layers.get(layer)
        if found is None:
            wrong.append(f"{name} has no layer")
            continue
        rank = ranks[layer.partition(".")[0]]
        shapes = {
            "A.weight": (rank or tensor.shape[0], found.in_features),
            "B.weight": (found.out_features, rank or tensor.shape[-1]),
            "magnitude_vector": (found.out_features,),
        }
        if kind not in shapes:
            wrong.append(f"{name} is unknown")
        elif tuple(tensor.shape) != shapes[kind]:
            wrong.append(f"{name} is {list(tensor.shape)} instead of {list(shapes[kind])}")
        elif not tensor.isfinite().all():
            wrong.append(f"{name} holds numbers that are not finite")
        else:
            pair = (f"{layer}.lora_{part}.weight" for part in "AB")
            wrong += [f"{other} is missing beside {name}" for other in pair if other not in tensors]
    if wrong or not tensors:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        what = "; ".join(wrong[:NAMED]) + more if wrong else "it holds no tensors"
        raise PochadeError(f"lora: {place} does not fit the model: {what}")
