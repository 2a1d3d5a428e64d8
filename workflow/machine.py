"""Judge this machine for a config given as JSON on standard input; exit code 1 when it cannot do what is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from petrflow.config import load_yaml
from petrflow.errors import PetrflowError
from petrflow.preflight import main

if __name__ == "__main__":
    request = json.load(sys.stdin)
    try:
        main(request["config"], {run: load_yaml(Path(path)) for run, path in request["models"].items()})
    except PetrflowError as error:
        sys.exit(str(error))
