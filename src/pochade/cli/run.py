"""``pochade run``: a bundle without PyTorch, by the command of ``pochade.runtime``, which also installs alone."""

import typer


def run(context: typer.Context) -> None:
    """Generate and edit with an exported bundle, without PyTorch."""
    from pochade.runtime.command import main

    main(context.args, "pochade run")
