"""Locks that show which Snakemake processes and jobs are alive; stale file lists are removed.

Seen with Snakemake 9.27: killed with SIGKILL it leaves file lists under ``.snakemake/locks``, and
every later run stops until somebody types ``--unlock``. The kernel drops a lock when its process
ends, so its locks tell which processes are alive.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path

import slurm

from petrflow.messages import _

MAIN_LOCK = "petrflow-main.lock"  # locked, shared, by every live Snakemake process of the folder
JOBS_LOCK = "petrflow-jobs.lock"  # locked, shared, by every live rule script of the folder
ORPHAN_SECONDS = 60.0  # seconds to wait for jobs that outlived their Snakemake
# Seconds. Dry runs and reports hold this lock too, for a few seconds. Wait that long before
# concluding that another run is active.
CONTEST_SECONDS = 5.0

_open: list[int] = []


def enter(folder: Path) -> None:
    """Take part in a folder's runs: hold its lock for the life of this process, and drop Snakemake
    locks whose owners are gone.

    Two live runs stay apart as before: while another process of this workflow lives, Snakemake's
    own file lists are left alone and Snakemake refuses what overlaps. Where the file system has no
    locks (some mounted buckets), no file list counts as stale.

    Parameters
    ----------
    folder : Path
        The ``.snakemake`` folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder / MAIN_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return
    _open.append(descriptor)
    try:
        if _is_alone(descriptor, CONTEST_SECONDS if _lists(folder) else 0.0):
            _remove_stale(folder)
        # Between giving up the exclusive lock and getting the shared one, another process may look:
        # it finds no file list of ours yet.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        return


def _is_alone(descriptor: int, patience: float) -> bool:
    """Try for the exclusive lock for ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)


def _lists(folder: Path) -> list[Path]:
    """Snakemake's lock files: lists of the files that a run reads or writes."""
    return sorted((folder / "locks").glob("*.lock"))


def _remove_stale(folder: Path) -> None:
    """Remove file lists left by killed runs, once the jobs that outlived their Snakemake have
    ended.
    """
    stale = _lists(folder)
    if not stale:
        return
    if not {"-n", "--dry-run", "--dryrun"} & set(sys.argv):
        slurm.wait_for_earlier_jobs(Path.cwd())
    descriptor = os.open(folder / JOBS_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _is_alone(descriptor, 0.0):
            print(
                _(
                    "A job of a killed run is still ending; waiting up to {seconds:.0f} s for it.",
                    seconds=ORPHAN_SECONDS,
                ),
                file=sys.stderr,
            )
            if not _is_alone(descriptor, ORPHAN_SECONDS):
                return
    finally:
        os.close(descriptor)
    for path in stale:
        path.unlink(missing_ok=True)
    print(_("The last run here was killed; the lock that it left was removed."), file=sys.stderr)


def show_job(folder: Path) -> int | None:
    """Show that a rule's script lives, so that a new Snakemake does not take the place of one that
    was killed while its job still ends.

    Returns
    -------
    int or None
        A file descriptor that holds the lock until it is closed; None where the file system has no
        locks.
    """
    try:
        descriptor = os.open(folder / JOBS_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
