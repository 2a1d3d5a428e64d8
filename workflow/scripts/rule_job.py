"""What every rule's script does around its one library call: log, account, clean errors, an end when asked to end."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

# A conda environment holds petrflow's dependencies, not petrflow: the checkout serves.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "src"))

from locks import show_job
from signals import end_with_snakemake, interrupt_on_signals
from slurm import start_again

from petrflow.errors import PetrflowError
from petrflow.files.receipts import Order
from petrflow.files.status import current

QUIET = "PETRFLOW_QUIET_STAGES"  # set by workflow/terminal.py

# Paddle (3.3.1) says this at every import when OMP_NUM_THREADS is above 1, which is what Snakemake sets and a CPU run wants.
CHATTER = re.compile(r"^(WARNING: OMP_NUM_THREADS set to .*|PLEASE USE OMP_NUM_THREADS WISELY\.)$\n?", re.MULTILINE)


# Lines that a person should see once, also where the stages' output goes to their logs alone.
NOTE = re.compile(r"^(?:\d\d:\d\d:\d\d WARNING |Note: )(.+)", re.MULTILINE)


class _Tee:
    """Text that goes to the terminal and to the rule's log, without Paddle's chatter."""

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self._terminal = terminal
        self._log = log
        self._line_dropped = False

    def write(self, text: str) -> int:
        kept = CHATTER.sub("", text)
        if (status := current()) is not None:
            for note in NOTE.findall(kept):
                status.add("notes", note)
        if self._line_dropped and kept == "\n":  # print writes a line and its end apart
            kept = ""
        self._line_dropped = kept != text and not text.endswith("\n")
        self._log.write(kept)
        with contextlib.suppress(OSError):  # the terminal is gone
            self._terminal.write(kept)
        return len(text)

    def flush(self) -> None:
        self._log.flush()
        with contextlib.suppress(OSError):
            self._terminal.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)


@contextlib.contextmanager
def rule_job(snakemake: Any) -> Iterator[Order | None]:
    """Run a rule's body: copy its output to the rule's log, print errors as one sentence, end cleanly when asked to.

    Parameters
    ----------
    snakemake : Snakemake
        The object Snakemake puts into a script.

    Yields
    ------
    Order or None
        What the workflow wants of the stage, to be handed to the stage's function; its receipt is written when the body has
        succeeded. None for a rule that leaves nothing.
    """
    # Paddle says the first at every import (nothing is compiled here) and the second while it exports (nothing is lost by it).
    for message in ("No ccache found", "Tensor do not have 'place'"):
        warnings.filterwarnings("ignore", message=message)
    job_lock = show_job(Path(".snakemake"))
    end_with_snakemake()
    order = Order(**snakemake.params.order) if snakemake.params.get("order") else None
    name = order.stage if order else snakemake.rule
    log_path = Path(snakemake.params.get("log") or os.devnull)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("a", encoding="utf-8", buffering=1) as log:
        stdout, stderr = sys.stdout, sys.stderr
        if os.environ.get(QUIET) and order and order.stage != "doctor":  # whose words are what was asked for
            # Snakemake's process shows what matters; what libraries print themselves goes to the log as well.
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
            stdout = stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
        sys.stdout, sys.stderr = _Tee(stdout, log), _Tee(stderr, log)  # type: ignore[assignment]
        log.write(f"\n---- {time.strftime('%Y-%m-%d %H:%M:%S')} {name}\n")
        try:
            interrupt_on_signals()
            with order.account() if order else contextlib.nullcontext():
                if order:
                    _check_order(order, snakemake)
                yield order
        except PetrflowError as error:
            _leave(f"\n{name}: {error}", 1)
        except KeyboardInterrupt:
            said = start_again() or "the same command makes this stage again."
            _leave(f"\n{name}: stopped when asked to; {said}", os.EX_TEMPFAIL)
        except Exception as error:
            log.write(traceback.format_exc())
            _leave(f"\n{name}: {_unforeseen(error)} The traceback is in {log_path}.", 1)
        finally:
            sys.stdout, sys.stderr = stdout, stderr
            if job_lock is not None:
                os.close(job_lock)


def _check_order(order: Order, snakemake: Any) -> None:
    """Refuse to write under a name that stands for other settings: the config was edited while a queue held the job."""
    if snakemake.wildcards.get("fingerprint") not in (None, order.fingerprint):
        raise PetrflowError(
            f"the settings of {order.subject} were edited after this job was planned: run the same command again."
        )


def _unforeseen(error: Exception) -> str:
    text = str(error).strip()
    return f"an error that petrflow did not foresee, {type(error).__name__}{': ' if text else ''}{text.rstrip('.')}."


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(code)
