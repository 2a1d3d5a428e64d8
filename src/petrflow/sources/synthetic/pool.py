"""Makes scenes in several processes.

They are processes of their own (`petrflow.sources.synthetic.worker`), neither forked nor spawned by
`multiprocessing`: a fork copies locks that other threads hold (OpenCV's pool, for one, then waits
for ever), and a spawn runs the caller's main script again.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from petrflow.errors import PetrflowError
from petrflow.machine.hardware import child_environment


def run_scenes(
    names: list[str], settings: dict[str, Any], root: Path, workers: int
) -> Iterator[tuple[str, dict[str, list[dict]]]]:
    """Make scenes in `workers` processes; yields (name, table rows) as they are done, in any
    order.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    command = [sys.executable, "-m", "petrflow.sources.synthetic.worker", str(root), json.dumps(settings)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment())
        for _ in range(workers)
    ]

    def feed(process: subprocess.Popen[str]) -> None:
        assert process.stdin and process.stdout
        name = ""
        try:
            while True:
                name = waiting.get_nowait()
                process.stdin.write(name + "\n")
                process.stdin.flush()
                done.put((name, json.loads(process.stdout.readline())))
        except queue.Empty:
            process.stdin.close()
        except (OSError, ValueError):
            done.put((name, None))

    try:
        for process in processes:
            threading.Thread(target=feed, args=(process,), daemon=True).start()
        for _ in names:
            name, rows = done.get()
            if rows is None:
                raise PetrflowError(
                    f"A process that draws synthetic scenes ended while it made {name}: its own message stands above; run it again."
                )
            yield name, rows
    finally:
        for process in processes:
            process.kill()
            process.wait()
