"""What the command ``pochade`` and ``python -m pochade`` run."""

import os
import signal
import sys


def run() -> None:
    """The command line, of a process that ends with it."""
    # Threads of OpenMP that wait for each other keep their cores busy otherwise, and on a machine that has other work
    # take the cores from the threads that they wait for. It is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from pochade.cli import main

        main()
    except KeyboardInterrupt:  # before it was minded
        print("interrupted: stopped by Ctrl-C", file=sys.stderr)
        _leave()
    except SystemExit as leave:
        if leave.code == 130:
            _leave()
        # From here to the end of the process nothing answers Ctrl-C.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, lambda *_: _leave())
        raise


def _leave() -> None:
    """Ends the process at once: threads of libraries that were interrupted may never end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


if __name__ == "__main__":
    run()
