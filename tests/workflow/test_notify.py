"""Somebody is told how a workflow ended, in the form that each service takes, and nothing that fails there harms a run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from petrflow.config import validate
from petrflow.errors import PetrflowError
from tests.helpers.workflow import (
    REPOSITORY,
    SNAKEMAKE,
    TWO_RUNS,
    copy_workflow,
    read_config,
    run_snakemake,
    write_config,
)

sys.path.insert(0, str(REPOSITORY / "workflow"))
import notify

FIGURES = {"first": {"mAP": {"before": 0.1, "after": 0.3}}}
TEXT = "petrflow: a < b & 完成"
BODIES = {
    "wecom": {"msgtype": "text", "text": {"content": TEXT}},
    "dingtalk": {"msgtype": "text", "text": {"content": TEXT}},
    "feishu": {"msg_type": "text", "content": {"text": TEXT}},
    "slack": {"text": "petrflow: a &lt; b &amp; 完成"},
    "json": {"event": "done", "text": TEXT, "runs": FIGURES},
}


class Hook:
    """A server that keeps what it is sent; ``answer`` and ``code`` are what it says, ``drip`` holds it back."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str, Any]] = []
        self.answer, self.code, self.drip = b'{"errcode": 0}', 200, False
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                hook.received.append((self.path, self.headers["Content-Type"], json.loads(content)))
                self.send_response(hook.code)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(hook.answer)))
                self.end_headers()
                for byte in hook.answer if hook.drip else b"":
                    time.sleep(0.2)  # each byte is in time, and the answer never ends
                    try:
                        self.wfile.write(bytes([byte]))
                    except OSError:
                        return
                if not hook.drip:
                    self.wfile.write(hook.answer)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_port}/s3cretpath?key=s3cret"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("kind", BODIES)
def test_each_service_gets_the_form_that_it_takes(kind: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_HOOK", hook.url)
    assert notify.tell({"kind": kind, "url_env": "A_HOOK"}, "done", TEXT, FIGURES) is None
    ((path, content_type, body),) = hook.received
    assert path == "/s3cretpath?key=s3cret"
    assert content_type == "application/json"
    assert body == BODIES[kind]


def test_a_long_text_is_cut_to_what_every_service_takes(hook: Hook) -> None:
    assert notify.tell({"kind": "wecom", "url": hook.url}, "failed", "长" * 5000, {}) is None
    assert 1800 < len(hook.received[0][2]["text"]["content"].encode()) < 2048


def test_a_server_that_hangs_refuses_redirects_or_is_not_there_is_a_sentence_without_the_links_path(hook: Hook) -> None:
    told = {"kind": "slack", "url": hook.url}
    hook.code = 302
    said = [notify.tell(told, "done", "text", {})]
    hook.code, hook.answer = 200, b'{"errcode": 93000, "errmsg": "invalid s3cret"}'
    said.append(notify.tell(told, "done", "text", {}))
    hook.answer, hook.drip = b"x" * 1000, True
    began = time.monotonic()
    said.append(notify.tell(told, "done", "text", {}, seconds=3))
    assert time.monotonic() - began < 30
    said.append(notify.tell({"kind": "slack", "url": "http://127.0.0.1:1/s3cret"}, "done", "text", {}))
    assert said[:3] == [
        "127.0.0.1: the server answered 302.",
        "127.0.0.1: the server refused the message with its code 93000.",
        "127.0.0.1 gave no answer in 3 s.",
    ]
    assert said[3] is not None
    assert said[3].startswith("127.0.0.1: the server could not be reached (")
    assert all("s3cret" not in str(sentence) for sentence in said)
    assert len(hook.received) == 3


def test_a_command_gets_text_and_event_and_is_ended_with_what_it_started(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert notify.tell({"command": f"(echo $PETRFLOW_EVENT; cat) > '{kept}'"}, "stopped", TEXT, {}) is None
    assert kept.read_text() == f"stopped\n{TEXT}"
    assert notify.tell({"command": "echo s3cret >&2; exit 3"}, "done", TEXT, {}) == "the command ended with code 3."
    slow = f"(sleep 2; touch '{tmp_path}/late') & sleep 60"
    assert notify.tell({"command": slow}, "done", TEXT, {}, seconds=0.5) == "the command was ended after 0.5 s."
    time.sleep(2)
    assert not (tmp_path / "late").exists()


def test_a_link_that_is_missing_or_none_is_said_by_its_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_HOOK", raising=False)
    told = {"kind": "json", "url_env": "A_HOOK"}
    assert notify.fault_of(told) == "the environment variable A_HOOK is not set."
    for link in ("s3cret", "ftp://host/s3cret", "https:///s3cret", "http://host:port/s3cret"):
        monkeypatch.setenv("A_HOOK", link)
        sentence = notify.tell(told, "done", "text", {})
        assert sentence is not None
        assert sentence.startswith("A_HOOK holds no link")
        assert "s3cret" not in sentence


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"url": "https://host/s3cret"}, "notify.url: needs kind"),
        ({"kind": "slack"}, "notify.kind: needs one link"),
        ({"kind": "slack", "url": "https://host/s3cret", "url_env": "A"}, "notify.kind: needs one link"),
        ({"kind": "slack", "url": "https://host/s3cret", "command": "true"}, "notify.command: stands beside a webhook"),
        ({"kind": "slack", "url_env": "https://host/s3cret"}, "notify.url_env: 'https://…"),
        ({"kind": "https://host/s3cret", "url_env": "A"}, "notify.kind: 'https://…"),
        ("https://host/s3cret", "notify: must be"),
        ({"kind": "slack", "url": "https://host/s3cret\n"}, "notify.url: 'https://…"),
        ({"kind": "slack", "url": ["https://host/s3cret"]}, "notify.url: must be"),
    ],
)
def test_a_mistake_in_the_section_is_one_sentence_without_the_link(section: Any, says: str) -> None:
    with pytest.raises(PetrflowError) as caught:
        validate({**TWO_RUNS, "notify": section})
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_workflow_tells_how_it_ended_and_keeps_the_link_nowhere(tmp_path: Path, hook: Hook) -> None:
    folder = copy_workflow(tmp_path / "project", TWO_RUNS, stub=True)
    write_config(folder, {**read_config(folder), "notify": {"kind": "json", "url": hook.url}})
    (folder / "fails").write_text("train first")
    said = run_snakemake(folder, "train_all", "--verbose", "--printshellcmds", check=False)
    (folder / "fails").unlink()
    output = said.stdout + said.stderr
    assert said.returncode
    hook.code, hook.answer = 500, b""  # a server that is down changes nothing
    again = run_snakemake(folder, "all", "--verbose")
    output += again.stdout + again.stderr
    assert "Warning: nobody was told how this ended: 127.0.0.1: the server answered 500." in again.stderr
    assert run_snakemake(folder, "all").returncode == 0  # nothing to be done: nobody is told
    (_, _, failed), (_, _, done) = hook.received
    assert failed["event"] == "failed"
    assert failed["text"].splitlines()[:3] == [
        "petrflow, project: failed",
        "Failed:",
        "  train first: train first was told to fail.",
    ]
    assert "first" not in failed["runs"]
    assert done["event"] == "done"
    both = {"before": 0.5, "after": 0.5}
    assert done["runs"] == {"first": {"mAP": both, "NDS": both}, "second": {"mAP": both, "NDS": both}}
    assert "first: mAP 0.500 -> 0.500  NDS 0.500 -> 0.500" in done["text"]
    assert "s3cret" not in output
    kept = [path for path in folder.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert kept == [folder / "config" / "config.yaml"]


def test_a_stop_is_told_by_a_command(tmp_path: Path) -> None:
    folder = copy_workflow(tmp_path / "project", TWO_RUNS, stub=True)
    write_config(folder, {**read_config(folder), "notify": {"command": "(echo $PETRFLOW_EVENT; cat) > told"}})
    (folder / "seconds").write_text("60")
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [*SNAKEMAKE, "--cores", "2", "train_all"], cwd=folder, stderr=said, stdout=said, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while not list(folder.glob("logs/*/*.log")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.terminate()
        process.wait(timeout=60)
    told = (folder / "told").read_text().splitlines()
    assert told[:2] == ["stopped", "petrflow, project: stopped"]
