"""Links as text: what kind a link is, what of it may be shown, and where its file goes.

Nothing here opens a connection, and nothing imports a library for it: the workflow asks these
functions before the first job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from petrflow.files.fingerprints import fingerprint
from petrflow.messages import _


def scheme_of(url: str) -> str:
    """Return ``http``, ``https`` or ``file``; an empty text for what is no URL."""
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def link_fault(url: str) -> str | None:
    """Return a sentence about a link that no server could answer, or None for any other link."""
    scheme = scheme_of(url)
    if scheme not in ("http", "https", "file"):
        return _(
            "{link} is no link that can be fetched: it must begin with http://, https:// or file://.",
            link=public_url(url),
        )
    if scheme != "file" and not urlsplit(url).hostname:
        return _("{link} names no server: after {scheme}:// comes its name.", link=public_url(url), scheme=scheme)
    return None


def public_url(url: str) -> str:
    """Return a URL without its query and its credentials, which may be personal.

    Messages, logs and lock files hold URLs in this form only.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL after all
        return url.partition("?")[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def public(value: Any) -> Any:
    """Return any piece of a config with :func:`public_url` of each of its URLs.

    Whatever is printed, logged, fingerprinted or kept goes through this function.
    """
    if isinstance(value, str):
        return public_url(value) if scheme_of(value) in ("http", "https") else value
    if isinstance(value, Mapping):
        return {key: public(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(entry) for entry in value]
    return value


def file_name(url: str) -> str:
    """Return the name that a URL's file gets on disk: the last part of its path."""
    name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name).lstrip(".") or "download"


def weights_key(source: Mapping[str, Any]) -> str:
    """Return the name of the folder that fetched weights go to.

    It comes from the public part of the link: a signed link that is renewed keeps its folder.
    """
    return fingerprint(public(source))[:12]


def fetched_weights(source: Mapping[str, Any]) -> Path:
    """Return the file that the weights of a link are fetched to."""
    return Path("data/weights") / weights_key(source) / "model.pdparams"
