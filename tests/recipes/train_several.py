"""What every process of ``test_two_processes`` runs: several trainings, one after the other."""

import json
import sys

from pochade.cli import main
from small import small_trainings

for arguments in json.loads(sys.argv[1]):
    try:
        with small_trainings():
            main(arguments)
    except SystemExit as end:
        if end.code:
            raise
