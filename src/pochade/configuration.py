"""The configurations of diffusers' models, with the types that diffusers leaves open."""

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ClassVar, ParamSpec, cast, get_type_hints

from diffusers import configuration_utils

from pochade.values import Ranges, check_values

P = ParamSpec("P")


def register_to_config(init: Callable[P, None]) -> Callable[P, None]:
    """An ``__init__`` whose arguments, given or not, become the configuration of the model.

    They are checked by their annotations and by the ``ranges`` of the class, before anything is made: PochadeError for
    one of another type or out of range.
    """
    signature = inspect.signature(init)
    kinds = cache(lambda: get_type_hints(init))

    @wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        own, *_ = given.args
        values = {name: value for name, value in given.arguments.items() if value is not own}
        check_values(values, kinds(), cast(ConfigMixin, own).ranges)
        init(*args, **kwargs)

    return configuration_utils.register_to_config(checked)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class ConfigMixin(configuration_utils.ConfigMixin):
    """A model with a ``config``: the arguments of its ``__init__`` by name, and what is registered beside them."""

    config_name = "config.json"
    ranges: ClassVar[Ranges] = {}
    """Of its arguments that are numbers, or lists of numbers."""

    def register_to_config(self, **values: Any) -> None:
        """Puts ``values`` into the configuration, in place of those of the same names."""
        super().register_to_config(**values)  # pyright: ignore[reportUnknownMemberType]
