"""Downloads against a server that fails in every way there is: the right bytes or the cause, never half a file."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import urllib3

from petrflow.errors import PetrflowError
from petrflow.fetch import download
from petrflow.fetch.download import fetch, read_url_list
from petrflow.fetch.links import file_name, public, public_url
from petrflow.fetch.transfer import Patience
from petrflow.files import read_json
from tests.helpers.misbehaving_server import FAULTS, MisbehavingServer

QUICK = Patience(attempts=4, backoff=0.001, longest_wait=0.01, connect_timeout=2, stall_timeout=0.2, restarts=4)
CONTENT = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def serve(*faults: str, content: bytes = CONTENT) -> MisbehavingServer:
    """A server that fails once in each of these ways, then behaves."""
    return MisbehavingServer(content, lambda number: faults[number] if number < len(faults) else "none")


def always(fault: str) -> MisbehavingServer:
    return MisbehavingServer(CONTENT, lambda _number: fault)


def left(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


# ------------------------------------------------------------------------------------------------------------------ one fault


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in ("html", "change")])
def test_any_single_fault_is_survived(fault: str, tmp_path: Path) -> None:
    with serve(fault) as server:
        fetch(f"{server.url}/v1.0-mini.tgz", tmp_path / "mini.tgz", sha256=SHA256, patience=QUICK, progress=False)
    assert (tmp_path / "mini.tgz").read_bytes() == CONTENT
    assert left(tmp_path) == ["checksums.json", "mini.tgz"]


def test_a_cut_connection_is_resumed_by_range_and_not_begun_anew(tmp_path: Path) -> None:
    with serve("cut", "cut", "reset", "cut") as server:
        fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK, progress=False)
        ranges = [int(entry.removeprefix("bytes=").removesuffix("-")) if entry else 0 for _, _, entry in server.log]
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert ranges[0] == 0
    assert ranges == sorted(ranges)
    assert ranges[-1] > 0


def test_a_download_goes_on_after_a_kill(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from petrflow.fetch.download import fetch
from petrflow.fetch.transfer import Patience
print("ready", flush=True)
fetch(sys.argv[1], Path(sys.argv[2]), patience=Patience(stall_timeout=30), progress=False)
"""
    with serve("stall") as server:
        server.stall_seconds = 30
        process = subprocess.Popen(
            [sys.executable, "-c", code, f"{server.url}/f", str(tmp_path / "f")], stdout=subprocess.PIPE
        )
        part = tmp_path / "f.part"
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = part.stat().st_size
        assert 0 < kept < len(CONTENT)
        assert not (tmp_path / "f").exists()
        fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK, progress=False)
        assert server.log[-1][2] == f"bytes={kept}-"
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_file_that_changes_between_attempts_is_never_a_mixture(tmp_path: Path) -> None:
    with serve("cut", "change") as server:
        fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK, progress=False)
        assert (tmp_path / "f").read_bytes() == server.content == CONTENT[::-1] + b"!"


def test_a_file_that_changed_is_refused_when_its_checksum_is_known(tmp_path: Path) -> None:
    with (
        serve("cut", "change") as server,
        pytest.raises(PetrflowError, match=f"the checksum is [0-9a-f]{{64}}, and the config says {SHA256}"),
    ):
        fetch(f"{server.url}/f", tmp_path / "f", sha256=SHA256, patience=QUICK, progress=False)
    assert left(tmp_path) == []


def test_a_server_without_validators_is_not_resumed_blindly(tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"something else")
    (tmp_path / "f.part.json").write_text(json.dumps({"url": "x", "total": len(CONTENT)}))
    with always("no_validator") as server:
        fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK, progress=False)
        assert server.log[0][2] is None
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("status_404", "404 Not Found, there is no such file"),
        ("status_403", "403 Forbidden, not allowed: such links are personal and expire"),
        ("status_401", "wants a login"),
        ("status_410", "removed by its publisher"),
        ("status_503", "the server answers 503 Service Unavailable; 4 attempts in a row brought nothing new"),
        ("html", "a web page came instead of the file"),
        ("empty", "the server sends an empty file"),
        ("garbage", "the checksum is"),
        ("reset", "the connection failed"),
    ],
)
def test_a_fault_that_stays_is_named_with_its_cause(fault: str, says: str, tmp_path: Path) -> None:
    with always(fault) as server, pytest.raises(PetrflowError, match=says) as caught:
        fetch(f"{server.url}/f.tgz?token=secret", tmp_path / "f.tgz", sha256=SHA256, patience=QUICK, progress=False)
    assert "secret" not in str(caught.value)
    assert "Run the same command again" in str(caught.value)
    assert not (tmp_path / "f.tgz").exists()


def test_a_stalled_line_is_given_up_and_resumed(tmp_path: Path) -> None:
    with serve("stall") as server:
        server.stall_seconds = 5
        began = time.monotonic()
        fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK, progress=False)
        assert time.monotonic() - began < 4
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_line_that_drips_is_as_good_as_stalled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve("drip") as server:
        server.stall_seconds = 5
        began = time.monotonic()
        fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK, progress=False)
        assert time.monotonic() - began < 4
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert "the line is too slow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:9/f?token=secret", "the connection failed"),
        ("http://no.such.host.invalid/f?token=secret", "the connection failed"),
        ("http://127.0.0.1:99999/f?token=secret", "no valid http"),
        ("http://[::1/f?token=secret", "is no URL|no valid"),
        ("tls", "certificate|connection failed"),
        ("elsewhere", "no valid http"),
        ("circle", "redirects in a circle"),
    ],
)
def test_no_trouble_on_the_line_shows_what_is_personal_in_a_link(
    url: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            circle = "circle" in self.path
            self.send_header("Location", self.path if circle else "ftp://elsewhere/f?token=secret")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirect)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    if url in ("elsewhere", "circle"):
        url = f"http://127.0.0.1:{server.server_port}/{url}?token=secret"
    elif url == "tls":
        url = f"https://127.0.0.1:{server.server_port}/f?token=secret"
    with pytest.raises(PetrflowError, match=says) as caught:
        fetch(url, tmp_path / "f", patience=QUICK, progress=False)
    server.shutdown()
    server.server_close()
    assert "secret" not in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize("target", ["http://plain/f?token=secret", "//other/f"])
def test_a_redirect_from_https_to_http_is_never_followed(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Line(requests.adapters.BaseAdapter):
        def send(self, request: requests.PreparedRequest, **_options: object) -> requests.Response:  # type: ignore[override]
            asked.append(str(request.url))
            answer = requests.Response()
            answer.status_code, answer.url, answer.request = 302, str(request.url), request
            answer.raw = urllib3.HTTPResponse(body=io.BytesIO(), preload_content=False)
            if "plain" in str(request.url):
                answer.status_code = 200
            answer.headers["Location"] = target if len(asked) == 1 else "http://plain/f"
            return answer

        def close(self) -> None:
            pass

    monkeypatch.setattr(requests.Session, "get_adapter", lambda _self, url: Line())
    with pytest.raises(PetrflowError, match="redirects from https to http") as caught:
        fetch("https://safe/f?token=secret", tmp_path / "f", patience=QUICK, progress=False)
    assert all(url.startswith("https://") for url in asked)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PetrflowError, match=r"http://127\.0\.0\.1:9/f: the connection failed \(.*refused"):
        fetch("http://127.0.0.1:9/f", tmp_path / "f", patience=QUICK, progress=False)


# ------------------------------------------------------------------------------------------------------------------ mirrors, checksums


def test_mirrors_are_tried_in_order_and_share_what_was_fetched(tmp_path: Path) -> None:
    with serve("cut", "status_404") as first, serve() as second:
        source = {"url": [f"{first.url}/f", f"{second.url}/g"], "sha256": SHA256}
        fetch(source, tmp_path / "f", patience=QUICK, progress=False)
        assert second.log[0][2] is not None
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_the_error_lists_every_mirror_with_its_own_cause(tmp_path: Path) -> None:
    with always("status_404") as first, always("html") as second, pytest.raises(PetrflowError) as caught:
        fetch([f"{first.url}/f", f"{second.url}/f.tgz"], tmp_path / "f", patience=QUICK, progress=False)
    assert f"{first.url}/f: 404" in str(caught.value)
    assert f"{second.url}/f.tgz: a web page" in str(caught.value)


def test_a_checksum_is_recorded_at_first_use_and_enforced_afterwards(tmp_path: Path) -> None:
    checksums = tmp_path / "downloads.lock.json"
    with serve() as server:
        url = f"{server.url}/f.tgz"
        fetch(f"{url}?expires=1", tmp_path / "a" / "f.tgz", checksums=checksums, patience=QUICK, progress=False)
        recorded = read_json(checksums)
        assert set(recorded) == {url}
        assert (recorded[url]["sha256"], recorded[url]["size"]) == (SHA256, len(CONTENT))
        fetch(f"{url}?expires=2", tmp_path / "b" / "f.tgz", checksums=checksums, patience=QUICK, progress=False)
        server.content = CONTENT[:-1] + b"?"
        with pytest.raises(PetrflowError, match="recorded when it was first fetched"):
            fetch(f"{url}?expires=3", tmp_path / "c" / "f.tgz", checksums=checksums, patience=QUICK, progress=False)
    assert not (tmp_path / "c" / "f.tgz").exists()


def test_a_file_that_is_already_there_is_verified_and_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    with serve() as server:
        fetch(f"{server.url}/f", tmp_path / "f", sha256=SHA256, progress=False)
        assert server.log == []


def test_a_fetched_file_is_hashed_once_and_again_only_when_it_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    with serve() as server:
        for _ in range(3):
            fetch(f"{server.url}/f", tmp_path / "f", progress=False)
            monkeypatch.setattr(download, "sha256_file", lambda path: hashed.append(path) or SHA256)
        assert not hashed
        os.utime(tmp_path / "f", (1, 1))
        fetch(f"{server.url}/f", tmp_path / "f", progress=False)
        fetch(f"{server.url}/f", tmp_path / "f", progress=False)
        assert hashed == [tmp_path / "f"] and len(server.log) == 1


def test_a_wrong_file_under_the_name_is_kept_aside_and_fetched_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f").write_bytes(b"wrong")
    with serve() as server:
        fetch(f"{server.url}/f", tmp_path / "f", sha256=SHA256, patience=QUICK, progress=False)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert (tmp_path / "f.rejected").read_bytes() == b"wrong"
    assert "does not have the checksum from the config" in capsys.readouterr().err


def test_weights_that_are_no_weights_are_refused_before_their_checksum_is_recorded(tmp_path: Path) -> None:
    import pickle

    import numpy as np

    from petrflow.weights.pdparams import load_pdparams

    weights = pickle.dumps({"w": np.ones(3, np.float32)})
    with MisbehavingServer(b"cos\nsystem\n(S'true'\ntR.", lambda _number: "none") as server:
        url = f"{server.url}/model.pdparams"
        with pytest.raises(PetrflowError, match=r"not what was asked for: .* asks for .*system"):
            fetch(url, tmp_path / "model.pdparams", check=load_pdparams, patience=QUICK, progress=False)
        assert left(tmp_path) == []
        server.content = weights
        fetch(url, tmp_path / "model.pdparams", check=load_pdparams, patience=QUICK, progress=False)
    assert list(load_pdparams(tmp_path / "model.pdparams")) == ["w"]


def test_a_known_size_is_enforced(tmp_path: Path) -> None:
    with serve() as server, pytest.raises(PetrflowError, match=r"offers 300,000 bytes where the config says 7"):
        fetch(f"{server.url}/f", tmp_path / "f", size=7, patience=QUICK, progress=False)


def test_too_little_disk_is_said_before_the_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petrflow.files.disk.free_bytes", lambda _path: 1000)
    with serve() as server, pytest.raises(PetrflowError, match=r"Fetching f needs 293\.0 KB"):
        fetch(f"{server.url}/f", tmp_path / "f", patience=QUICK, progress=False)


def test_a_file_url_is_copied(tmp_path: Path) -> None:
    (tmp_path / "source.bin").write_bytes(CONTENT)
    fetch((tmp_path / "source.bin").as_uri(), tmp_path / "copy.bin", progress=False)
    assert (tmp_path / "copy.bin").read_bytes() == CONTENT
    with pytest.raises(PetrflowError, match="does not exist"):
        fetch((tmp_path / "gone").as_uri(), tmp_path / "gone.bin", progress=False)


# ------------------------------------------------------------------------------------------------------------------ the rest


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers every request itself and remembers it."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def test_the_proxy_of_the_environment_is_used(
    proxy: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy[0])
    fetch("http://data.invalid/f.tgz", tmp_path / "f.tgz", patience=QUICK, progress=False)
    assert proxy[1] == ["http://data.invalid/f.tgz"]
    monkeypatch.setenv("no_proxy", "data.invalid")
    with pytest.raises(PetrflowError, match="the connection failed"):
        fetch("http://data.invalid/g.tgz", tmp_path / "g.tgz", patience=QUICK, progress=False)


def test_progress_shows_bytes_speed_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from pathlib import Path; from petrflow.fetch.download import fetch; fetch(sys.argv[1], Path(sys.argv[2]))"
    with serve() as server:
        done = subprocess.run(
            [sys.executable, "-c", code, f"{server.url}/f", str(tmp_path / "f")],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "293k/293k" in done.stderr
    assert "B/s" in done.stderr


def test_a_list_of_urls_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "urls.txt"
    path.write_text("# trainval\nhttps://x/part01.tgz?sig=a\n\n  https://x/part02.tgz?sig=b  \n")
    assert read_url_list(path) == ["https://x/part01.tgz?sig=a", "https://x/part02.tgz?sig=b"]
    path.write_text("part01.tgz\n")
    with pytest.raises(PetrflowError, match=r"urls\.txt: entry 1 \('part01\.tgz'\) is no URL"):
        read_url_list(path)
    path.write_text("# nothing\n")
    with pytest.raises(PetrflowError, match="holds no URL"):
        read_url_list(path)
    with pytest.raises(PetrflowError, match="Cannot read the list"):
        read_url_list(tmp_path / "gone.txt")


def test_names_and_public_forms_of_urls() -> None:
    assert file_name("https://x.org/data/v1.0-mini.tgz?sig=%2Fa/b") == "v1.0-mini.tgz"
    assert file_name("https://x.org/a%20b%2F..%2Fc.tgz") == "c.tgz"
    assert file_name("https://x.org/..%00.tgz") == "_.tgz"
    assert public_url("https://me:secret@x.org/f.tgz?token=secret#x") == "https://x.org/f.tgz"
    config = {"weights": {"url": ["https://me:secret@x.org/f?token=secret", "file:///f"], "sha256": None}, "epochs": 2}
    assert public(config) == {"weights": {"url": ["https://x.org/f", "file:///f"], "sha256": None}, "epochs": 2}
    with pytest.raises(PetrflowError, match="is no URL that can be fetched") as caught:
        fetch("ftp://me:secret@x/y?token=secret", Path("x"))
    assert "secret" not in str(caught.value)
    with pytest.raises(PetrflowError, match="is no URL that can be fetched"):
        fetch("ftp//x", Path("x"))
    with pytest.raises(PetrflowError, match="64 hexadecimal digits"):
        fetch("https://x/f", Path("x"), sha256="abc")


# ------------------------------------------------------------------------------------------------------------------ many random faults


def _random_run(seed: int, folder: Path) -> str:
    """One file over one line of random badness, fetched by up to four commands; returns how it ended."""
    draw = random.Random(seed)
    content = draw.randbytes(draw.randrange(1, 250_000))
    badness = draw.random()
    known = draw.random() < 0.6
    # Without a checksum nobody can see a flipped byte or a length that the server itself believes.
    faults = FAULTS if known else tuple(fault for fault in FAULTS if fault not in ("garbage", "short_length"))
    plan: Callable[[int], str] = lambda _number: draw.choice(faults) if draw.random() < badness else "none"  # noqa: E731
    with MisbehavingServer(content, plan, seed) as server:
        server.stall_seconds = 0.2
        patience = Patience(
            attempts=5, backoff=0.001, longest_wait=0.005, connect_timeout=2, stall_timeout=0.1, restarts=4
        )
        for _ in range(4):
            try:
                sha256 = hashlib.sha256(content).hexdigest() if known else None
                fetch(f"{server.url}/f.tgz", folder / "f.tgz", sha256=sha256, patience=patience, progress=False)
            except PetrflowError as error:
                assert not (folder / "f.tgz").exists()
                assert len(str(error).splitlines()[1]) > 30
                continue
            got = (folder / "f.tgz").read_bytes()
            assert got == content if known else _is_a_version(got, content)
            assert not (folder / "f.tgz.part").exists()
            return "right"
    return "an error with its cause"


def _is_a_version(got: bytes, content: bytes) -> bool:
    """Whether what arrived is the file as it was after some number of changes on the server, and no mixture of two."""
    for _ in range(60):
        if got == content:
            return True
        content = content[::-1] + b"!"
    return False


def _many_runs(seeds: range, folder: Path) -> dict[str, int]:
    ends: dict[str, int] = {}
    for seed in seeds:
        target = folder / str(seed)
        target.mkdir()
        end = _random_run(seed, target)
        ends[end] = ends.get(end, 0) + 1
    return ends


def test_two_hundred_files_over_lines_of_random_badness_arrive_right_or_say_why(tmp_path: Path) -> None:
    ends = _many_runs(range(200), tmp_path)
    assert ends["right"] >= 180


@pytest.mark.slow
def test_two_thousand_files_over_lines_of_random_badness_arrive_right_or_say_why(tmp_path: Path) -> None:
    ends = _many_runs(range(1000, 3000), tmp_path)
    assert ends["right"] >= 1800
