"""Files fetched over a network that fails: resumed, verified, and under their final name only when
they are whole.

The transfer goes to ``NAME.part`` beside the target and is resumed by range as long as the server's
validators say that the file is the same; ``NAME.part.json`` remembers them. A checksum that the
config does not give is recorded at first use and enforced afterwards.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from petrflow.errors import PetrflowError
from petrflow.fetch.links import public_url, scheme_of
from petrflow.fetch.transfer import (
    Expected,
    GiveUp,
    Patience,
    Restart,
    Retry,
    Session,
    discard,
    notes_path,
    partial_path,
    transfer,
)
from petrflow.files import (
    disk_errors,
    file_stamp,
    fsync_path,
    human_bytes,
    lock,
    patient_lock,
    read_json,
    remove,
    require_space,
    sha256_file,
    write_json,
)
from petrflow.files.status import tqdm

CHECKSUMS = "checksums.json"

Source = str | Sequence[str] | Mapping[str, Any]
"""A URL, mirrors in order, or `{"url": URL or mirrors, "sha256": hex or None, "size": bytes or
None}`.
"""


# ------------------------------------------------------------------------------------------------------------------ the one entry


def fetch(
    source: Source,
    destination: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    checksums: Path | None = None,
    check: Callable[[Path], object] | None = None,
    patience: Patience | None = None,
    progress: bool = True,
) -> Path:
    """Bring a file to ``destination``, whole and verified, whatever happens on the way; a second call
    goes on where the first stopped.

    Parameters
    ----------
    source : URL (http, https, file), mirrors in order of preference, or a mapping with ``url``, ``sha256``, ``size``
    destination : final name; nothing but the whole, verified file ever stands there
    sha256, size : what the file must be; without a checksum the first one seen is recorded in ``checksums`` and enforced from then on
    checksums : JSON file of recorded checksums; ``checksums.json`` beside the destination when None
    check : called with the fetched file before it gets its name and its checksum is recorded; a PetrflowError of its own refuses the file

    Raises
    ------
    PetrflowError
        no mirror gave the file; the message says why for each, and what to do
    """
    urls, sha256, size = _read_source(source, sha256, size)
    destination = Path(destination)
    checksums = checksums or destination.parent / CHECKSUMS
    patience = patience or Patience()
    with disk_errors(destination, permissions=True):
        destination.parent.mkdir(parents=True, exist_ok=True)
    with patient_lock(destination.with_name(f".{destination.name}.lock")):
        expected = _expectation(urls, sha256, size, checksums)
        if destination.is_file() and _already_there(destination, expected):
            _record(checksums, urls[0], destination, expected)
            return destination
        reasons = []
        for url in urls:
            try:
                _fetch_one(url, destination, expected, patience, progress=progress, check=check)
            except GiveUp as error:
                reasons.append(f"  {public_url(url)}: {error}")
                continue
            _record(checksums, urls[0], destination, expected)
            return destination
    partial = partial_path(destination)
    kept = (
        f" {human_bytes(partial.stat().st_size)} are kept in {partial.name} and will be resumed."
        if partial.exists()
        else ""
    )
    raise PetrflowError(
        f"Could not fetch {destination.name} into {destination.parent}:\n"
        + "\n".join(reasons)
        + f"\nRun the same command again to go on.{kept} Or fetch "
        f"it by other means and put it at {destination}."
    )


def read_url_list(path: Path) -> list[str]:
    """URLs from a text file, one a line; blank lines and lines that begin with ``#`` are skipped."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise PetrflowError(
            f"Cannot read the list of URLs {path}: {error.strerror}. Give the path of a text file with one URL a line."
        ) from error
    except UnicodeDecodeError as error:
        raise PetrflowError(f"{path} is not a text file: give the path of a text file with one URL a line.") from error
    urls = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    for number, url in enumerate(urls, 1):
        if scheme_of(url) not in ("http", "https", "file"):
            raise PetrflowError(
                f"{path}: entry {number} ({public_url(url)[:60]!r}) is no URL; put one http(s) URL on each line."
            )
    if not urls:
        raise PetrflowError(f"{path} holds no URL: put one on each line (nuscenes.org shows yours after you log in).")
    return urls


# ------------------------------------------------------------------------------------------------------------------ expectations


def _read_source(source: Source, sha256: str | None, size: int | None) -> tuple[list[str], str | None, int | None]:
    if isinstance(source, Mapping):
        sha256 = sha256 or source.get("sha256")
        size = size if size is not None else source.get("size")
        source = source["url"]
    urls = [source] if isinstance(source, str) else [str(url) for url in source]
    for url in urls:
        if scheme_of(url) not in ("http", "https", "file"):
            raise PetrflowError(
                f"{public_url(url)!r} is no URL that can be fetched: it must begin with https://, http:// or file://."
            )
    if not urls:
        raise PetrflowError("No URL was given: name at least one.")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise PetrflowError(
            f"sha256 {sha256!r} is no SHA-256: it must be 64 hexadecimal digits, as `sha256sum` prints them."
        )
    return urls, sha256.lower() if sha256 else None, size


def _expectation(urls: Sequence[str], sha256: str | None, size: int | None, checksums: Path) -> Expected:
    recorded = (read_json(checksums) if checksums.is_file() else {}).get(public_url(urls[0]))
    # A file is hashed once; while its size, time and inode stay the same it is the file that was
    # hashed.
    stamp = recorded.get("stamp") if recorded and sha256 in (None, recorded["sha256"]) else None
    if sha256 or not recorded:
        return Expected(sha256, size, "the config", stamp)
    return Expected(
        recorded["sha256"],
        recorded["size"] if size is None else size,
        f"{checksums}, recorded when it was first fetched",
        stamp,
    )


def _record(checksums: Path, url: str, path: Path, expected: Expected) -> None:
    entry = {"sha256": expected.sha256 or sha256_file(path), "size": path.stat().st_size, "stamp": file_stamp(path)}
    with lock(checksums.with_name(f".{checksums.name}.lock"), timeout=60):
        recorded = read_json(checksums) if checksums.is_file() else {}
        if recorded.get(public_url(url)) != entry:
            write_json(checksums, {**recorded, public_url(url): entry})


def _already_there(destination: Path, expected: Expected) -> bool:
    if expected.size is not None and destination.stat().st_size != expected.size:
        problem = f"has {destination.stat().st_size:,} bytes instead of {expected.size:,}"
    elif (
        expected.sha256 is not None
        and expected.stamp != file_stamp(destination)
        and sha256_file(destination) != expected.sha256
    ):
        problem = f"does not have the checksum from {expected.origin}"
    else:
        return True
    aside = destination.with_name(destination.name + ".rejected")
    destination.replace(aside)
    _say(f"{destination} {problem}: it is fetched again; the old file is kept as {aside.name}.")
    return False


def _say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------------ one mirror


def _fetch_one(
    url: str,
    destination: Path,
    expected: Expected,
    patience: Patience,
    *,
    progress: bool,
    check: Callable[[Path], object] | None,
) -> None:
    """Fetch from one mirror with retries and put the verified file in place, or raise GiveUp."""
    partial = partial_path(destination)
    without_bytes = restarts = 0
    reach = partial.stat().st_size if partial.exists() else 0
    jitter = random.Random(destination.name)
    with Session() as session:
        while True:
            try:
                if scheme_of(url) == "file":
                    _copy_local(url, partial)
                else:
                    transfer(session, url, destination, expected, patience=patience, progress=progress)
                _verify(partial, expected)
                break
            except Restart as error:
                discard(destination)
                restarts += 1
                if restarts > patience.restarts:
                    raise GiveUp(str(error)) from None
                _say(f"{destination.name}: {error}; beginning anew ({restarts} of {patience.restarts}).")
                reach, without_bytes = 0, 0
            except Retry as error:
                have = partial.stat().st_size if partial.exists() else 0
                without_bytes = 0 if have > reach else without_bytes + 1
                reach = max(reach, have)
                if without_bytes >= patience.attempts:
                    raise GiveUp(f"{error}; {patience.attempts} attempts in a row brought nothing new") from None
                wait = max(error.wait, patience.backoff * 2 ** max(without_bytes - 1, 0) * (0.5 + jitter.random()))
                wait = min(wait, patience.longest_wait)
                _say(f"{destination.name}: {error}; at {human_bytes(have)}, trying again in {wait:.0f} s.")
                time.sleep(wait)
    _put_in_place(partial, destination, check)


def _put_in_place(partial: Path, destination: Path, check: Callable[[Path], object] | None) -> None:
    """Give a file that was fetched its final name, once ``check`` finds in it what was asked for."""
    if check is not None:
        try:
            check(partial)
        except PetrflowError as error:
            discard(destination)
            raise GiveUp(f"what came is not what was asked for: {error}") from None
    with disk_errors(destination, permissions=True):
        fsync_path(partial)
        partial.replace(destination)
        fsync_path(destination.parent)
    remove(notes_path(destination))


def _copy_local(url: str, partial: Path) -> None:
    source = Path(url2pathname(urlsplit(url).path))
    if not source.is_file():
        raise GiveUp(f"{source} does not exist or is no file")
    require_space(partial, source.stat().st_size, f"Copying {source}")
    with disk_errors(partial, source.stat().st_size):
        shutil.copyfile(source, partial)


def _verify(partial: Path, expected: Expected) -> None:
    size = partial.stat().st_size
    if expected.size is not None and size != expected.size:
        raise Restart(f"{size:,} bytes arrived where {expected.origin} says {expected.size:,}")
    if expected.sha256 is not None:
        found = sha256_file(partial)
        if found != expected.sha256:
            raise Restart(
                f"the checksum is {found}, and {expected.origin} says {expected.sha256} (if the publisher replaced the file on purpose, put the new "
                "checksum there)"
            )
