"""Write the page over all runs from what there is, after a failure: a request as JSON on standard
input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from petrflow.errors import PetrflowError
from petrflow.stages import report

if __name__ == "__main__":
    request = json.load(sys.stdin)
    try:
        report(request["runs"], request["notes"], Path(request["path"]), request["price_per_hour"])
    except PetrflowError as error:
        sys.exit(str(error))
    print(f"The page {request['path']} was written from what there is.", file=sys.stderr)
