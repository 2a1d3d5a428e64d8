"""Files of a request, fetched from the hosts that the config lists and from no other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx

from petrflow.errors import InputError

_AT_ONCE = 8
_STALLED = 10.0
"""s without a byte, after which a host counts as gone; the request's own time is cut elsewhere."""
_PORTS = {"http": 80, "https": 443}


class Fetcher:
    """Fetches files by HTTP: listed hosts, no redirect, no proxy, no credentials, sizes up to a
    limit.

    Parameters
    ----------
    hosts : sequence of str
        ``serve.hosts`` of the config: ``HOST`` (ports 80 and 443) or ``HOST:PORT``. That a host is
        listed is what allows an address of this machine or of a private network.
    largest : int
        Bytes of the largest file.
    """

    def __init__(self, hosts: Sequence[str], largest: int) -> None:
        self._allowed = set()
        for entry in hosts:
            url = httpx.URL(f"http://{entry}")
            ports = [url.port] if entry.rpartition("]")[2].count(":") else list(_PORTS.values())
            # httpx leaves a port out that is the scheme's usual one.
            self._allowed |= {(url.raw_host, port or 80) for port in ports}
        self._largest = largest
        # Certificates go by SSL_CERT_FILE where it is set; proxies of the environment are not used.
        self._client = httpx.AsyncClient(
            verify=httpx.create_ssl_context(), follow_redirects=False, trust_env=False, timeout=_STALLED
        )
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def check(self, address: object, what: str) -> httpx.URL:
        """Return an address that may be fetched, or say why it may not.

        Parameters
        ----------
        address : object
            What a request says.
        what : str
            Its place in the request, for messages. Queries are never repeated: they sign links.
        """
        if not isinstance(address, str) or not address.strip():
            raise InputError(f"{what} is no address.")
        try:
            url = httpx.URL(address.strip())
            usual = _PORTS[url.scheme]
        except (httpx.InvalidURL, KeyError, ValueError):
            raise InputError(f"{what} is no address that begins with http:// or https://.") from None
        if url.userinfo:
            raise InputError(f"{what} holds a name or a password, which are not sent.")
        port = url.port or usual
        if (url.raw_host, port) not in self._allowed:
            raise InputError(
                f"{what} is on {url.host}:{port}, which `serve.hosts` of the config does not list: nothing is fetched from there."
            )
        return url

    async def fetch(self, url: httpx.URL, path: Path, what: str, largest: int | None = None) -> None:
        """Fetch a file of at most ``largest`` bytes."""
        limit = self._largest if largest is None else min(largest, self._largest)
        try:
            async with self._slots, self._client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
                if answer.is_redirect:
                    raise InputError(
                        f"{what}: {url.host} sends on to another address, which is not followed; give the address itself."
                    )
                if answer.status_code != 200:
                    raise InputError(f"{what}: {url.host} answers {answer.status_code}.")
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise InputError(f"{what}: {url.host} sends it compressed without being asked to.")
                size = 0
                with path.open("wb") as file:
                    async for part in answer.aiter_raw():
                        size += len(part)
                        if size > limit:
                            raise InputError(f"{what} is larger than {limit / 1e6:g} MB, the most that is fetched.")
                        file.write(part)
        except httpx.HTTPError as error:
            raise InputError(f"{what} cannot be fetched from {url.host} ({type(error).__name__}).") from error
