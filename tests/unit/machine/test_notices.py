"""The notices of four clouds, from answers as their documentation records them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from petrflow.machine.notices import Notices, watch

AWS_PATH = "/latest/meta-data/spot/instance-action"
AZURE = {
    "DocumentIncarnation": 2,
    "Events": [
        {"EventId": "A1", "EventType": "Freeze", "ResourceType": "VirtualMachine", "NotBefore": ""},
        {"EventId": "A2", "EventType": "Preempt", "ResourceType": "VirtualMachine", "NotBefore": "Mon, 19 Sep 2016 18:29:47 GMT"},
    ],
}  # fmt: skip


class Cloud(ThreadingHTTPServer):
    """Answers like a cloud's metadata service; `going` says whether the machine is about to end."""

    going = False
    token = "secret-1"

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if path == AWS_PATH:
            if headers.get("x-aws-ec2-metadata-token") != self.token:
                return 401, ""
            return (200, '{"action": "terminate", "time": "2017-09-18T08:22:00Z"}') if self.going else (404, "")
        if path == "/computeMetadata/v1/instance/preempted":
            return (200, "TRUE" if self.going else "FALSE") if headers.get("metadata-flavor") == "Google" else (403, "")
        if path == "/metadata/scheduledevents?api-version=2020-07-01":
            events = AZURE if self.going else {"DocumentIncarnation": 1, "Events": AZURE["Events"][:1]}
            return (200, json.dumps(events)) if headers.get("metadata") == "true" else (400, "")
        if path == "/latest/meta-data/instance/spot/termination-time":
            return (200, "2015-01-05T18:02:00Z") if self.going else (404, "")
        return 500, ""


class Handler(BaseHTTPRequestHandler):
    def _send(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        self._send(*self.server.answer(self.path, {key.lower(): value for key, value in self.headers.items()}))

    def do_PUT(self) -> None:
        good = self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self._send(200 if good else 400, self.server.token if good else "")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    server = Cloud(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def address(cloud: Cloud) -> str:
    return f"http://127.0.0.1:{cloud.server_address[1]}"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("aws", "terminate at 2017-09-18T08:22:00Z"),
        ("gcp", "preempted"),
        ("azure", "Preempt not before Mon, 19 Sep 2016 18:29:47 GMT"),
        ("alibaba", "termination at 2015-01-05T18:02:00Z"),
    ],
)
def test_a_notice_is_read_and_its_absence_too(cloud: Cloud, name: str, says: str) -> None:
    notices = Notices(name, address(cloud))
    assert notices.ask() == ""
    cloud.going = True
    assert notices.ask() == says


def test_an_old_token_is_replaced(cloud: Cloud) -> None:
    notices = Notices("aws", address(cloud))
    assert notices.ask() == ""
    cloud.token, cloud.going = "secret-2", True
    assert notices.ask().startswith("terminate")


def test_a_notice_is_passed_on_once_and_silence_is_asked_again(cloud: Cloud) -> None:
    class Flaky(Notices):
        asked = 0

        def ask(self) -> str:
            self.asked += 1
            if self.asked < 3:
                raise requests.ConnectionError
            return super().ask()

    told: list[str] = []
    heard = threading.Event()
    cloud.going = True
    flaky = Flaky("gcp", address(cloud))
    watch(flaky, lambda said: (told.append(said), heard.set()), poll_seconds=0.02)
    assert heard.wait(20)
    assert told == ["preempted"] and flaky.asked == 3
