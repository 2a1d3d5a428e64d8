"""``python -m petrflow.training --request request.json``; see :mod:`petrflow.training.train`."""

from __future__ import annotations

import sys

from petrflow.training.train import main

if __name__ == "__main__":
    sys.exit(main())
