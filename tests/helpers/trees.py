"""What folders hold, to be compared before and after."""

from __future__ import annotations

import hashlib
from pathlib import Path


def state_of(*folders: Path) -> dict[str, str]:
    """Kind and content of everything under some folders, links as links."""
    found = {}
    for folder in folders:
        for path in [folder, *sorted(folder.rglob("*"))]:
            if path.is_symlink():
                found[str(path)] = f"link to {path.readlink()}"
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif path.is_dir():
                found[str(path)] = "folder"
    return found
