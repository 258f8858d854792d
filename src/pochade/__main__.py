"""What the command ``pochade`` and ``python -m pochade`` run."""

import os
import signal
import sys


def run() -> None:
    """The command line, of a process that ends with it."""
    # Threads of OpenMP that wait for each other keep their cores busy otherwise, and on a machine that has other work
    # take the cores from the threads that they wait for. GNU's library, which can, gives up its core after a moment: to
    # sleep at once takes twice the time where no one else wants the core. Both are read when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
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
