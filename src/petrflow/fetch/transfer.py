"""One HTTP request for the rest of a file: what the answer means, and when what was fetched before
may be kept.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

from petrflow.errors import PetrflowError
from petrflow.fetch.links import file_name, public_url, scheme_of
from petrflow.files import disk_errors, read_json, remove, require_space, write_json
from petrflow.files.status import tqdm

CHUNK_BYTES = 1 << 20
BAR: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "mininterval": 1.0}
RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)


@dataclass(frozen=True)
class Patience:
    """How long to keep trying. The count of attempts starts again whenever new bytes arrive, so that
    a large file arrives over a poor connection.
    """

    attempts: int = 8  # without new bytes, one after the other, on each mirror
    # Seconds before the second attempt. They double up to `longest_wait`, with jitter.
    backoff: float = 1.0
    longest_wait: float = 60.0
    connect_timeout: float = 15.0
    stall_timeout: float = 60.0  # seconds without a byte
    slowest: float = 1024.0  # bytes a second over stall_timeout; a slower connection counts as stalled
    restarts: int = 3  # per mirror: a file that changed or arrived damaged is fetched from its start


class Retry(Exception):
    """Worth another attempt; ``wait`` is what the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class Restart(Exception):
    """What was fetched so far is of no use."""


class GiveUp(Exception):
    """The mirror will not give us the file."""


@dataclass
class Expected:
    sha256: str | None
    size: int | None
    origin: str  # where the checksum comes from, for messages
    stamp: list[int] | None = None  # size, time and inode of the file that had that checksum


class Downgrade(requests.RequestException):
    """A redirect from https to something that anybody on the way can read and change."""


class Session(requests.Session):
    """A session that follows no redirect from https to http."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target and scheme_of(resp.url) == "https" and scheme_of(urljoin(resp.url, target)) != "https":
            raise Downgrade(response=resp)
        return target


def partial_path(destination: Path) -> Path:
    return destination.with_name(destination.name + ".part")


def discard(destination: Path) -> None:
    remove(partial_path(destination))
    remove(notes_path(destination))


def notes_path(destination: Path) -> Path:
    return destination.with_name(destination.name + ".part.json")


# ------------------------------------------------------------------------------------------------------------------ one request


def transfer(
    session: requests.Session, url: str, destination: Path, expected: Expected, *, patience: Patience, progress: bool
) -> None:
    """One request: fetch what is missing. Returns when the server says that all of it is here."""
    partial, notes_file = partial_path(destination), notes_path(destination)
    offset = partial.stat().st_size if partial.exists() else 0
    notes = _read_notes(notes_file)
    if offset and not _may_resume(notes, expected, url):
        discard(destination)
        offset, notes = 0, {}
    headers = {"Accept-Encoding": "identity", "User-Agent": "petrflow"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        validator = _strong_validator(notes)
        if validator and notes.get("url") == public_url(url):
            headers["If-Range"] = validator
    try:
        response = session.get(
            url, headers=headers, stream=True, timeout=(patience.connect_timeout, patience.stall_timeout)
        )
    except requests.RequestException as error:
        raise _network_trouble(error, patience) from None
    with contextlib.closing(response):
        total = _check_answer(response, offset, notes, expected, url)
        if total is not None and total == offset and response.status_code in (206, 416):
            return
        if response.status_code != 206:
            offset = 0
        _write_notes(notes_file, response, url, total)
        if total is not None:
            require_space(destination, total - offset, f"Fetching {destination.name}")
        _write_body(response, partial, offset, total, progress=progress, patience=patience)


def _read_notes(path: Path) -> dict[str, Any]:
    try:
        notes = read_json(path)
    except PetrflowError:
        return {}
    return notes if isinstance(notes, dict) else {}


def _may_resume(notes: dict[str, Any], expected: Expected, url: str) -> bool:
    # Without a validator nothing says that the rest belongs to what we have, unless a checksum will
    # tell at the end.
    if expected.sha256 is not None:
        return True
    return notes.get("url") == public_url(url) and bool(_strong_validator(notes))


def _strong_validator(notes: Mapping[str, Any]) -> str:
    etag = notes.get("etag") or ""
    return etag if etag and not etag.startswith("W/") else notes.get("last_modified") or ""


def _write_notes(path: Path, response: requests.Response, url: str, total: int | None) -> None:
    write_json(
        path,
        {
            "url": public_url(url),
            "etag": response.headers.get("ETag", ""),
            "last_modified": response.headers.get("Last-Modified", ""),
            "total": total,
        },
    )


def _network_trouble(error: Exception, patience: Patience) -> Exception:
    if isinstance(
        error, (requests.exceptions.MissingSchema, requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
    ):
        return GiveUp("this address, or one that it redirects to, is no valid http(s) URL")
    if isinstance(error, Downgrade):
        return GiveUp(
            "it redirects from https to http, where anybody on the way can change the file: not followed; give another address"
        )
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return GiveUp("redirects in a circle")
    if isinstance(error, requests.exceptions.SSLError):
        return GiveUp(
            f"its certificate is not trusted ({_root_cause(error)}): check the machine's clock and REQUESTS_CA_BUNDLE"
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return Retry(f"the proxy does not answer ({_root_cause(error)}): check HTTPS_PROXY and NO_PROXY")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Retry(f"no connection within {patience.connect_timeout:.0f} s")
    if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in str(error):
        return Retry(f"the line stalled: no byte for {patience.stall_timeout:.0f} s")
    return Retry(f"the connection failed ({_root_cause(error)})")


def _root_cause(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    # What a library says may quote the whole address, and with it a personal signature.
    text = re.sub(r"\?[^\s'\")]*", "", f"{type(error).__name__}: {error}")
    return re.sub(r"//[^/\s'\")@]*@", "//", text)[:160]


def _check_answer(
    response: requests.Response, offset: int, notes: Mapping[str, Any], expected: Expected, url: str
) -> int | None:
    """Judge the answer's status and headers; returns the file's whole size where the server says
    it.
    """
    status = response.status_code
    if status in RETRIED_STATUS:
        raise Retry(f"the server answers {status} {response.reason}", _retry_after(response))
    if status == 416:
        total = _range_total(response)
        if total == offset and offset:
            return total
        raise Restart(f"the server has no bytes after {offset:,}: the file is shorter than it was")
    if status not in (200, 206):
        raise GiveUp(_refusal(status, response))
    if "text/html" in response.headers.get("Content-Type", "").lower() and not file_name(url).endswith(
        (".html", ".htm")
    ):
        raise GiveUp("a web page came instead of the file: the link has expired or wants a login; get a new link")
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if not match or int(match[1]) != offset:
            raise Restart(
                f"the server answers with another range than asked for ({response.headers.get('Content-Range')})"
            )
        total = int(match[3]) if match[3] != "*" else None
        if _changed(notes, response, total, url):
            raise Restart("the file changed on the server between two attempts")
    else:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        if total == 0 and expected.size != 0:
            raise Retry("the server sends an empty file")
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if total is None and not chunked and expected.sha256 is None and expected.size is None:
            raise GiveUp(
                "the server does not say how long the file is, so a cut one could not be told from a whole one: give its sha256"
            )
    if expected.size is not None and total is not None and total != expected.size:
        raise Restart(f"the server offers {total:,} bytes where {expected.origin} says {expected.size:,}")
    return total


def _changed(notes: Mapping[str, Any], response: requests.Response, total: int | None, url: str) -> bool:
    if notes.get("total") is not None and total is not None and notes["total"] != total:
        return True
    if notes.get("url") != public_url(url):
        return False  # another mirror has its own validators
    pairs = (
        (notes.get("etag"), response.headers.get("ETag")),
        (notes.get("last_modified"), response.headers.get("Last-Modified")),
    )
    return any(before and now and before != now for before, now in pairs)


def _range_total(response: requests.Response) -> int | None:
    match = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", "").strip())
    return int(match[1]) if match else None


def _retry_after(response: requests.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _refusal(status: int, response: requests.Response) -> str:
    advice = {
        401: "it wants a login: use a link that carries its own permission",
        403: "not allowed: such links are personal and expire; log in at the publisher's site and get a new one",
        404: "there is no such file: check the address for typing errors, or whether it moved",
        407: "the proxy wants a login: put user and password into HTTPS_PROXY",
        410: "the file was removed by its publisher",
    }
    return f"{status} {response.reason}, {advice.get(status, 'which is final')}"


def _write_body(
    response: requests.Response, partial: Path, offset: int, total: int | None, *, progress: bool, patience: Patience
) -> None:
    have = offset
    window_start, window_have = time.monotonic(), have
    bar = tqdm(total=total, initial=offset, desc=partial.stem, disable=not progress, **BAR)
    with (
        bar,
        disk_errors(partial, None if total is None else total - offset, permissions=True),
        partial.open("r+b" if offset else "wb") as handle,
    ):
        handle.seek(offset)
        while block := _read_block(response, patience):
            if total is not None and have + len(block) > total:
                raise Restart(f"more bytes came than the {total:,} that were announced")
            handle.write(block)
            have += len(block)
            bar.update(len(block))
            elapsed = time.monotonic() - window_start
            if elapsed > patience.stall_timeout:
                if have - window_have < patience.slowest * elapsed:
                    raise Retry(f"the line is too slow ({(have - window_have) / elapsed:.0f} B/s)")
                window_start, window_have = time.monotonic(), have
    if total is not None and have < total:
        raise Retry(f"the connection ended at {have:,} of {total:,} bytes")


def _read_block(response: requests.Response, patience: Patience) -> bytes:
    try:
        # The raw stream: a .tgz that a server declares as gzip-encoded must not be unpacked on the
        # way.
        return bytes(response.raw.read1(CHUNK_BYTES))
    except Exception as error:  # urllib3's own errors, which requests does not translate on the raw stream
        raise _network_trouble(error, patience) from None
