"""The command line."""

import sys

from pochade.cli.stopping import EXIT_CODE, stoppable


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    with stoppable() as stop:
        try:
            from pochade.cli.commands import start  # which takes a while, and Ctrl-C is minded

            start(sys.argv[1:] if arguments is None else arguments, stop)
        except KeyboardInterrupt:
            stop.arrived()
            print(f"interrupted: {stop.reason}", file=sys.stderr)
            sys.exit(EXIT_CODE)
