"""Files that appear whole or not at all, locks that die with their process, fingerprints, and disk
space as sentences.
"""

from petrflow.files.atomic import (
    TEMPORARY_MARK,
    atomic_dir,
    atomic_path,
    fsync_all,
    fsync_path,
    read_json,
    remove,
    sweep_stale,
    temporary_path,
    write_atomic,
    write_json,
)
from petrflow.files.disk import disk_errors, free_bytes, human_bytes, require_space
from petrflow.files.fingerprints import file_stamp, fingerprint, sha256_file
from petrflow.files.locks import lock, patient_lock

__all__ = [
    "TEMPORARY_MARK",
    "atomic_dir",
    "atomic_path",
    "disk_errors",
    "file_stamp",
    "fingerprint",
    "free_bytes",
    "fsync_all",
    "fsync_path",
    "human_bytes",
    "lock",
    "patient_lock",
    "read_json",
    "remove",
    "require_space",
    "sha256_file",
    "sweep_stale",
    "temporary_path",
    "write_atomic",
    "write_json",
]
