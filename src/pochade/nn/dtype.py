"""Of which type a network takes pictures and latents."""

from typing import Any

from torch import Tensor

from pochade.errors import PochadeError
from pochade.nn.norms import autocasts


def check_dtype(name: str, x: Tensor, network: Any, weight: Tensor) -> None:
    """Raises PochadeError unless x has the type of the network; under autocast any floating type will do.

    Args:
        name: of the argument.
        x: what is given.
        network: a model of diffusers. Its ``dtype`` is slow to read, and read where that of ``weight`` is another.
        weight: one of its weights.
    """
    if x.dtype == weight.dtype or (x.is_floating_point() and (autocasts(x) or x.dtype == network.dtype)):
        return
    raise PochadeError(f"{name}: {x.dtype} given, allowed is {network.dtype}, the type of the network")
