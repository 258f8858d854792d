"""The classes that may stand in ``model_index.json``, and where those of earlier versions are now.

That file names the module and the class of every component, and diffusers finds a class only in a module that is
already imported: ``register_components`` imports them all. Their paths are part of the file format.
"""

import sys
from importlib import import_module
from types import ModuleType

from diffusers.models.modeling_utils import ModelMixin

from pochade.autoencoders import AUTOENCODERS
from pochade.denoisers import FAMILIES
from pochade.text_encoders import ENCODERS

COMPONENTS = (*FAMILIES.values(), *AUTOENCODERS.values(), *ENCODERS.values())
"""Every component as "module:class"."""

MOVED = {
    "pochade.autoencoders.published:PublishedAutoencoder": "pochade.autoencoders.pretrained:PretrainedAutoencoder",
}
"""Components as earlier versions saved them -> as they are called now. A path that has been released stays here."""


def register_components() -> None:
    """Imports every module that defines components, and gives diffusers the moved ones under their old paths too."""
    for path in COMPONENTS:
        import_module(path.partition(":")[0])
    for old, new in MOVED.items():
        (module, name), (now, cls) = (path.split(":") for path in (old, new))
        if module not in sys.modules:
            stand_in = ModuleType(module)
            # diffusers looks for ModelMixin beside a component's class.
            vars(stand_in).update({name: getattr(import_module(now), cls), "ModelMixin": ModelMixin})
            sys.modules[module] = stand_in


def present_path(module: str, cls: str) -> tuple[str, str]:
    """Module and class that a component saved as ``module`` and ``cls`` has now."""
    now, _, name = MOVED.get(f"{module}:{cls}", f"{module}:{cls}").partition(":")
    return now, name


def find_autoencoder(cls: str) -> type[ModelMixin] | None:
    """The class of an autoencoder or decoder that a ``config.json`` names, now or in an earlier version; or None."""
    paths = {path.partition(":")[2]: path for path in AUTOENCODERS.values()}
    paths |= {old.partition(":")[2]: new for old, new in MOVED.items() if new in AUTOENCODERS.values()}
    if cls not in paths:
        return None
    module, _, name = paths[cls].partition(":")
    return getattr(import_module(module), name)
