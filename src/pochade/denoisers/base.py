"""The base class of every family's network."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, cast

from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pochade.configuration import ConfigMixin
from pochade.errors import PochadeError
from pochade.nn.modulation import Modulation
from pochade.types import Conditioning, InputSpec
from pochade.values import LAYERS, NO_WIDTH, WIDTH, Ranges, whole

MAX_CLASSES = 2**20
MAX_DEPTH = 64
"""Iterations of a family that has them, at most."""
RANGES: Ranges = {
    **dict.fromkeys(("latent_channels", "sample_size", "patch_size", "dim", "heads", "hidden"), WIDTH),
    **dict.fromkeys(("text_dim", "pooled_dim"), NO_WIDTH),
    "num_classes": whole(0, MAX_CLASSES),
    "blocks": LAYERS,
}
"""Of what the arguments of several families may be."""


class DenoiserModel(PeftAdapterMixin, ModelMixin, ConfigMixin):
    """A `pochade.types.Denoiser` that is saved and loaded as diffusers' models are, and says what it takes.

    Adapters (LoRA) are added and removed as in diffusers' models.

    A family has ``latent_channels``, ``sample_size``, ``patch_size``, ``text_dim``, ``pooled_dim``, ``text_encoder``
    and ``num_classes`` in its configuration; where it takes more than these, its ``input_spec`` adds that.
    """

    config: Any
    ranges: ClassVar[Ranges] = RANGES
    _repeated_blocks: ClassVar[list[str]]
    """Names of the classes of the blocks that the network is made of."""
    _block_methods: ClassVar[dict[str, str]] = {}
    """By the class of a block the name of its method that the network calls beside the forward pass, for what divides
    weights among processes."""
    _depths: ClassVar[tuple[int, int] | None] = None
    """Least and most iterations of a call; None where the family has none."""
    _trunk: ClassVar[str]
    """Name of the ``ModuleList`` of blocks of width D that the tokens pass through one after the other."""

    def input_spec(self) -> InputSpec:
        """What the network takes, as it is configured now."""
        config = self.config
        return InputSpec(
            latent_channels=config.latent_channels,
            sample_size=config.sample_size,
            size_multiple=config.patch_size,
            text_dim=config.text_dim,
            pooled_dim=config.pooled_dim,
            text_encoder=config.text_encoder,
            num_classes=config.num_classes,
        )

    def check_depth(self, depth: int | None) -> None:
        """Raises PochadeError where a call cannot have so many iterations; None stands for those configured."""
        if depth is None:
            return
        if self._depths is None:
            family = type(self).__name__.removesuffix("Denoiser")
            raise PochadeError(f"depth: {depth} given, but {family} does not iterate: allowed is none")
        least, most = self._depths
        if not least <= depth <= most:
            raise PochadeError(f"depth: {depth} given, allowed are {least} to {most} iterations")

    @property
    def size_multiple(self) -> int:
        """Rows and columns of the latents must divide by this."""
        return int(self.config.patch_size)

    @property
    def trunk(self) -> list[nn.Module]:
        """The blocks that the tokens pass through one after the other."""
        return list(self.get_submodule(self._trunk).children())

    def features(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, *, state: Tensor | None = None
    ) -> list[Tensor]:
        """What each block of the trunk gives in a call of the network, [B, N, D] each, at its last pass where it has
        several; the streams of hyper-connections follow one another as further tokens.

        Compiled blocks run as they are written, since what is compiled does not heed hooks.
        """
        kept: dict[int, Tensor] = {}

        def keep(index: int) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_module: nn.Module, _inputs: Any, tokens: Tensor) -> None:
                kept[index] = tokens.flatten(1, -2)

            return hook

        trunk: list[Any] = list(self.trunk)  # what is compiled, and hooks, have no types
        compiled = [block._compiled_call_impl for block in trunk]
        hooks: list[Any] = [block.register_forward_hook(keep(index)) for index, block in enumerate(trunk)]
        try:
            for block in trunk:
                block._compiled_call_impl = None
            self(latents, t, conditioning, state=state)
        finally:
            for block, implementation, hook in zip(trunk, compiled, hooks, strict=True):
                block._compiled_call_impl = implementation
                hook.remove()
        return [kept[index] for index in range(len(trunk))]

    def adaptable_layers(self) -> list[str]:
        """The names of the linear layers inside the blocks, but for those that make modulations: what a LoRA adapts."""
        modules = dict(cast(Iterable[tuple[str, nn.Module]], nn.Module.named_modules(self)))
        blocks = [name for name, module in modules.items() if type(module).__name__ in self._repeated_blocks]
        modulations = [name for name, module in modules.items() if isinstance(module, Modulation)]
        return [
            name
            for name, module in modules.items()
            if isinstance(module, nn.Linear) and _below(name, blocks) and not _below(name, modulations)
        ]


def _below(name: str, parents: list[str]) -> bool:
    return any(name.startswith(f"{parent}.") for parent in parents)
