"""The command line."""

import sys

from pochade.stopping import Stop, run_stoppable


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""

    def work(stop: Stop) -> None:
        from pochade.cli.commands import start  # which takes a while, and Ctrl-C is minded

        start(sys.argv[1:] if arguments is None else arguments, stop)

    run_stoppable(work)
