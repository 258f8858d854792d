"""Autoencoders of diffusers by hub name or folder: of the right class, with every tensor in its place."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from pochade.errors import PochadeError
from pochade.hub_access import UNREACHED, is_unreached, one_attempt


def load_diffusers(name_or_folder: str, classes: Sequence[type[Any]], **options: Any) -> Any:
    """The network in a folder or on the hub (OWNER/NAME, or OWNER/NAME/SUBFOLDER), of one of diffusers' ``classes``.

    ``options`` are those of diffusers' ``from_pretrained``, such as ``revision`` or ``local_files_only``.

    Raises:
        PochadeError: the weights cannot be had, are of another class, or do not fit their configuration.
    """
    source: str = name_or_folder
    if not Path(name_or_folder).expanduser().is_dir():
        owner, *rest = name_or_folder.split("/")
        if not owner or len(rest) not in (1, 2) or not all(rest):
            raise PochadeError(f"name_or_folder: {name_or_folder!r} is no folder and no hub name OWNER/NAME")
        source = f"{owner}/{rest[0]}"
        options = options | ({"subfolder": rest[1]} if len(rest) == 2 else {})
    allowed = " or ".join(f"an {cls.__name__}" for cls in classes)
    try:
        with nullcontext() if options.get("local_files_only") else one_attempt(source), warnings.catch_warnings():
            # diffusers gives the hub's client an argument that this no longer has.
            warnings.filterwarnings("ignore", "The `local_dir_use_symlinks` argument", UserWarning)
            config: Any = classes[0].load_config(source, **options)
            fields = cast(dict[str, Any], config) if isinstance(config, dict) else {}
            given = fields.get("_class_name")
            found = [cls for cls in classes if cls.__name__ == given]
            loaded: Any = found[0].from_pretrained(source, output_loading_info=True, **options) if found else None
    except (OSError, ValueError, RuntimeError) as error:
        why = UNREACHED if is_unreached(error) else " ".join(str(error).split())
        raise PochadeError(
            f"name_or_folder: {name_or_folder!r} is neither a folder with {allowed} nor within reach: {why}"
        ) from error
    if loaded is None:
        raise PochadeError(f"name_or_folder: {name_or_folder!r} holds a {given}, allowed is {allowed}")
    network, info = loaded
    faults = [f"{kind.removesuffix('_keys')} {key}" for kind in info for key in info[kind]]
    if faults:
        raise PochadeError(f"name_or_folder: {name_or_folder!r} has weights that do not fit: {', '.join(faults)}")
    return network
