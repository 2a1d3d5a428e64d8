"""A file server that fails the way real ones do, at random and on purpose, decided by a seed."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

Fault = str
FAULTS: tuple[Fault, ...] = (
    "none", "cut", "no_range", "cut_without_range", "status_503", "status_500", "redirect", "stall", "short_length", "wrong_range",
    "change", "no_validator", "reset", "html", "empty", "garbage", "drip", "chunked", "chunked_cut",
)  # fmt: skip


class MisbehavingServer:
    """Serve one file under any path. `plan(request_number)` names the fault of each request.

    `log` holds (path, fault, range header) of every request.
    """

    def __init__(self, content: bytes, plan: Callable[[int], Fault], seed: int = 0):
        self.content = content
        self.plan = plan
        self.random = random.Random(seed)
        self.log: list[tuple[str, Fault, str | None]] = []
        self.stall_seconds = 1.0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with server.lock:
                    fault = server.plan(len(server.log))
                    server.log.append((self.path, fault, self.headers.get("Range")))
                    position = server.random.random()
                self.close_connection = True
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    server.answer(self, fault, position)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> MisbehavingServer:
        # A short poll: shutdown waits for it, and some tests start hundreds of servers.
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, request: BaseHTTPRequestHandler, fault: Fault, position: float) -> None:
        if fault.startswith("status_"):
            request.send_response(int(fault[7:]))
            request.send_header("Content-Length", "0")
            request.send_header("Retry-After", "0")
            request.end_headers()
            return
        if fault == "reset":
            request.connection.close()
            return
        if fault == "redirect" and not request.path.endswith("redirected"):
            request.send_response(302)
            request.send_header("Location", request.path + "redirected")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if fault == "html":
            page = b"<html>please log in</html>"
            request.send_response(200)
            request.send_header("Content-Type", "text/html; charset=utf-8")
            request.send_header("Content-Length", str(len(page)))
            request.end_headers()
            request.wfile.write(page)
            return
        if fault == "change":
            with self.lock:
                self.content = self.content[::-1] + b"!"
        self._send(request, fault, position)

    def _send(self, request: BaseHTTPRequestHandler, fault: Fault, position: float) -> None:
        content = self.content
        etag = '"' + hashlib.md5(content).hexdigest() + '"'
        total = len(content)
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        condition = request.headers.get("If-Range")
        ranged = bool(match) and fault not in ("no_range", "cut_without_range", "empty") and condition in (None, etag)
        if ranged and match:
            start = int(match[1])
            if start >= total:
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{total}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
        body = content[start:]
        if fault == "garbage":  # right in every header, wrong in one byte
            at = int(position * (len(body) - 1))
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        length = len(body)
        if fault == "short_length":
            length = max(1, int(length * position))
            body = body[:length]
        request.send_response(206 if ranged else 200)
        if ranged:
            shift = 1 if fault == "wrong_range" else 0
            request.send_header("Content-Range", f"bytes {start + shift}-{total - 1}/{total}")
        if fault == "empty":
            length, body = 0, b""
        if fault.startswith("chunked"):
            request.send_header("Transfer-Encoding", "chunked")
        else:
            request.send_header("Content-Length", str(length))
        request.send_header("Content-Type", "application/octet-stream")
        if fault != "no_validator":
            request.send_header("ETag", etag)
        request.end_headers()
        if fault.startswith("chunked"):
            sent = body if fault == "chunked" else body[: int(len(body) * position)]
            if sent:
                request.wfile.write(b"%x\r\n" % len(sent) + sent + b"\r\n")
            if fault == "chunked":
                request.wfile.write(b"0\r\n\r\n")
            return
        if fault == "drip":
            end = time.monotonic() + self.stall_seconds
            while time.monotonic() < end and body:
                request.wfile.write(body[:1])
                body = body[1:]
                time.sleep(0.02)
            return
        if fault in ("cut", "cut_without_range"):
            request.wfile.write(body[: int(len(body) * position)])
            return
        if fault == "stall":
            request.wfile.write(body[: int(len(body) * position)])
            request.wfile.flush()
            time.sleep(self.stall_seconds)
            return
        request.wfile.write(body)
