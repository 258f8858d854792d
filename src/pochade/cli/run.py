"""``pochade run``: a bundle without PyTorch, by the command of ``pochade.runtime``, which also installs alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pochade.runtime import Bundle


def run(context: typer.Context) -> None:
    """Generate and edit with an exported bundle, without PyTorch."""
    from pochade.runtime.command import run as run_bundle

    run_bundle(context.args, "pochade run", opened)


def opened(folder: Path, **options: Any) -> "Bundle":
    """A bundle of any target, without PyTorch where its library needs none. Raises PochadeError as ``Bundle`` does."""
    from pochade.runtime import Bundle
    from pochade.runtime.engines import OPENERS
    from pochade.runtime.graphs import check_openable
    from pochade.runtime.manifest import read_manifest

    check_openable("bundle", folder)
    if read_manifest(folder).target in OPENERS:
        return Bundle(folder, **options)
    from pochade.export.targets import open_bundle

    return open_bundle(folder, **options)
