"""Files that appear whole or not at all, locks that end with their process, fingerprints, receipts
and provenance of results, and clear errors about a full disk.

For every package and for the workflow. Only this package renames files and takes locks. It must not
write into a folder that petrflow did not make, and knows nothing of what a file holds.
"""

from petrflow.files.atomic import (
    NOBODYS,
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
    "NOBODYS",
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
