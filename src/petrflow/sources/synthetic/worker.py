"""One process of the pool: `python -m petrflow.sources.synthetic.worker FOLDER SETTINGS_JSON`,
scene names on stdin, their rows on stdout.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path

import cv2

from petrflow.sources.synthetic.recorder import make_scene


def main() -> None:
    """Make the scenes whose names arrive on stdin; end when it closes, also in the middle of one:
    then the parent is gone.
    """
    cv2.setNumThreads(1)
    root, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    settings["image_size"] = tuple(settings["image_size"])
    names: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            names.put(line.strip())
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        rows = make_scene(names.get(), settings, root)
        sys.stdout.write(json.dumps(rows) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
