"""The configurations of diffusers' models, with the types that diffusers leaves open."""

from collections.abc import Callable
from typing import Any, ParamSpec

from diffusers import configuration_utils

P = ParamSpec("P")


def register_to_config(init: Callable[P, None]) -> Callable[P, None]:
    """An ``__init__`` whose arguments, given or not, become the configuration of the model."""
    return configuration_utils.register_to_config(init)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class ConfigMixin(configuration_utils.ConfigMixin):
    """A model with a ``config``: the arguments of its ``__init__`` by name, and what is registered beside them."""

    config_name = "config.json"

    def register_to_config(self, **values: Any) -> None:
        """Puts ``values`` into the configuration, in place of those of the same names."""
        super().register_to_config(**values)  # pyright: ignore[reportUnknownMemberType]
