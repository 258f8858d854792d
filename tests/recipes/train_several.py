"""What every process of ``test_two_processes`` runs: several trainings, one after the other."""

import json
import sys

from pochade.cli import main

for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
