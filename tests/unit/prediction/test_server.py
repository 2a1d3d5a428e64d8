"""The model service: a real HTTP client, a file server that may misbehave, and the exported model."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from tests.helpers.models import small_model_config
from tests.helpers.xtreme1_writer import Export, write_export

paddle = pytest.importorskip("paddle")

from petrflow.annotations import AnnotationStore, build
from petrflow.config import validate
from petrflow.errors import PetrflowError
from petrflow.export.exported import ExportedModel
from petrflow.export.static import export
from petrflow.geometry import wrap_angle
from petrflow.model import build_model
from petrflow.prediction import server as serving
from petrflow.prediction.server import Service, listen, server_of, service_of
from petrflow.prediction.xtreme1_moments import MomentModel, cameras_of
from petrflow.samples.dataset import PetrDataset
from petrflow.sources.xtreme1.prepare import FRAMES, prepare
from petrflow.sources.xtreme1.settings import conventions

pytestmark = pytest.mark.xdist_group("server")
CONFIG = small_model_config()
ENTRY = {"length_unit": {"boxes": "cm"}, "size_order": "wlh", "yaw_offset": 90.0, "origin_height": 1.5}
SCORE = 0.01


class Files(SimpleHTTPRequestHandler):
    """Files of a folder; some paths misbehave."""

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):
            if self.path.startswith("/redirect/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/redirect"))
                self.end_headers()
            elif self.path.startswith("/drip/"):
                self.send_response(200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            elif self.path.startswith("/endless/"):
                self.send_response(200)
                self.end_headers()
                for _ in range(200):
                    self.wfile.write(bytes(1 << 16))
            else:
                super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def files_of(folder: Path) -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder)))
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()


class Rig:
    """An export, its import, a small exported model and the service on it."""

    def __init__(self, place: Path, synthetic_root: Path, stores: dict[str, Path]) -> None:
        self.media, self.root, self.about = place / "export", place / "data" / "set", place / "about"
        write_export(synthetic_root, self.media, Export(names="index"))
        for path in self.media.rglob("result/*.json"):
            content = json.loads(path.read_text())
            for entry in content[0]["objects"]:
                if entry["type"] == "3D_BOX":
                    for key in ("center3D", "size3D"):
                        entry["contour"][key] = {axis: 100 * value for axis, value in entry["contour"][key].items()}
                    size = entry["contour"]["size3D"]
                    size["x"], size["y"] = size["y"], size["x"]
                    entry["contour"]["rotation3D"]["z"] -= np.pi / 2
            path.write_text(json.dumps(content))
        prepare({"kind": "xtreme1", "source": str(self.media), **ENTRY}, self.root, self.about)
        paddle.seed(3)
        model = build_model(CONFIG)
        model.eval()
        export(CONFIG, {name: value.numpy() for name, value in model.state_dict().items()}, stores["val"], synthetic_root, place / "model", samples=1)  # fmt: skip
        self.model = ExportedModel(place / "model")
        build(self.root, "val", place / "val.arrow", progress=False)
        self.store = AnnotationStore.open(place / "val.arrow")
        self.dataset = PetrDataset(place / "val.arrow", self.root, CONFIG, training=False)
        frames = json.loads((self.about / FRAMES).read_text())["frames"]
        self.frames = {frame["sample"]: frame for frame in frames}

    def request(self, files: str, index: int = 0) -> dict[str, Any]:
        """What Xtreme1 sends for the first frame of a scene."""
        frame = self.frames[self.store[index].token]
        base = f"http://{files}/{frame['scene']}"
        cameras = sorted(
            path.parent.name for path in (self.media / frame["scene"]).glob(f"camera_image_*/{frame['name']}.*")
        )
        pictures = [f"{base}/{camera}/{frame['name']}.jpg?sign=secret" for camera in cameras]
        return {
            "id": 41,
            "pointCloudUrl": f"{base}/lidar_point_cloud_0/{frame['name']}.pcd",
            "imageUrls": pictures,
            "cameraConfigUrl": f"{base}/camera_config/{frame['name']}.json",
        }


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, synthetic_root: Path, synthetic_stores: dict[str, Path]) -> Rig:
    return Rig(tmp_path_factory.mktemp("serve"), synthetic_root, synthetic_stores)


@pytest.fixture(scope="module")
def files(rig: Rig) -> Iterator[str]:
    with files_of(rig.media) as address:
        yield address


@pytest.fixture(scope="module")
def address(rig: Rig, files: str) -> Iterator[str]:
    limits = {
        "hosts": [files],
        "seconds": 30.0,
        "requests": 2,
        "frames": 4,
        "request_megabytes": 1,
        "file_megabytes": 2,
    }
    settings = conventions({"source": ".", **ENTRY})
    moments = MomentModel(rig.model, CONFIG, settings, np.full(len(CONFIG["class_names"]), SCORE), rig.about / FRAMES)
    with served(Service(moments, limits)) as where:
        yield where


@contextlib.contextmanager
def served(service: Service) -> Iterator[str]:
    bound = listen("127.0.0.1", 0)
    server = server_of(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)


def ask(address: str, frames: Any, **options: Any) -> httpx.Response:
    return httpx.post(address, json={"datas": frames}, timeout=60, trust_env=False, **options)


def frame_error(address: str, frame: Any) -> str:
    """The message of the one frame of an answer, which must be an error in Xtreme1's form."""
    answer = ask(address, [frame])
    assert answer.status_code == 200
    content = answer.json()
    assert content["code"] == "OK"
    (one,) = content["data"]
    assert one["code"] == "ERROR"
    assert one["objects"] == []
    assert "secret" not in one["message"]
    assert "/tmp" not in one["message"]
    return str(one["message"])


def test_a_moment_has_the_boxes_that_the_exported_model_gives_on_its_imported_frame(
    rig: Rig, files: str, address: str
) -> None:
    content = ask(address, [rig.request(files)]).json()
    assert content["code"] == "OK"
    (one,) = content["data"]
    assert (one["id"], one["code"], one["message"]) == (41, "OK", "")
    sample = rig.dataset.load(0)
    assert rig.store[0].num_sweeps == 0, "the first frame of a scene: the present one stands for the one before"
    (expected,) = rig.model.predict({**{k: sample[k][None] for k in ("img", "lidar2img", "intrinsics", "timestamp")}, "token": ["x"]})  # type: ignore[arg-type, literal-required]  # fmt: skip
    keep = expected.scores >= SCORE
    assert keep.sum() > 3
    names = [CONFIG["class_names"][label] for label in expected.labels[keep]]
    assert [entry["label"] for entry in one["objects"]] == names
    np.testing.assert_allclose([entry["confidence"] for entry in one["objects"]], expected.scores[keep], atol=2e-4)
    # Read as the importer reads labels: cm, width first, a quarter turn; the cloud has LIDAR_TOP's axes, lower by 0.34 m.
    found = np.array([[entry[key] for key in ("x", "y", "z", "dx", "dy", "dz", "rotZ")] for entry in one["objects"]])
    found[:, :6] /= 100
    found[:, 2] += 1.5 - 1.84
    boxes = np.asarray(expected.boxes, np.float64)[keep]
    np.testing.assert_allclose(found[:, :6], boxes[:, :6], atol=2e-3)
    np.testing.assert_allclose(wrap_angle(found[:, 6] + np.pi / 2 - boxes[:, 6]), 0, atol=2e-3)
    assert all(entry["rotX"] == entry["rotY"] == 0 for entry in one["objects"])


def test_several_frames_are_answered_in_order_and_a_bad_one_alone_fails(rig: Rig, files: str, address: str) -> None:
    good = rig.request(files)
    answer = ask(address, [good, {**good, "id": "b", "imageUrls": []}, {**good, "id": 3}]).json()
    assert [(one["id"], one["code"]) for one in answer["data"]] == [(41, "OK"), ("b", "ERROR"), (3, "OK")]
    assert answer["data"][0]["objects"] == answer["data"][2]["objects"]


def test_pictures_without_a_folder_in_their_address_come_in_the_order_of_names_as_text() -> None:
    urls = [f"http://h/{number}" for number in range(12)]
    assert cameras_of(urls, urls) == ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"]
    paths = ["/a/camera_image_0/x.jpg", "/a/camera_image_10/x.jpg", "/a/camera_image_2/x.jpg"]
    assert cameras_of(paths, paths) == ["0", "10", "2"]


def test_pictures_are_paired_by_the_folder_in_their_address(rig: Rig, files: str, address: str) -> None:
    good = rig.request(files)
    turned = {**good, "imageUrls": good["imageUrls"][::-1]}
    first, second = ask(address, [good, turned]).json()["data"]
    assert first["objects"] == second["objects"]


def edited_config(rig: Rig, files: str, edit: Any) -> dict[str, Any]:
    """A request whose calibration was changed."""
    request = rig.request(files)
    path = rig.media / request["cameraConfigUrl"].removeprefix(f"http://{files}/")
    content = edit(json.loads(path.read_text()))
    (rig.media / "wrong.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return {**request, "cameraConfigUrl": f"http://{files}/wrong.json"}


def scaled(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    entries[2]["cameraExternal"] = [2 * value for value in entries[2]["cameraExternal"]]
    return entries


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (scaled, "camera_config, camera 2"),
        (lambda entries: [{**entry, "cameraExternal": [1.0] * 15} for entry in entries], "cameraExternal"),
        (lambda entries: [{**entry, "cameraInternal": {"fx": "nan"}} for entry in entries], "cameraInternal"),
        (lambda entries: entries[:3], "camera_config"),
        (lambda entries: "[" * 100_000, "camera_config"),
        (lambda entries: [{**entry, "width": 17} for entry in entries], "scale_intrinsics"),
    ],
)
def test_a_wrong_calibration_is_a_sentence(rig: Rig, files: str, address: str, edit: Any, says: str) -> None:
    assert says in frame_error(address, edited_config(rig, files, edit))


def test_garbage_pictures_and_other_formats_are_a_sentence(rig: Rig, files: str, address: str) -> None:
    request = rig.request(files)
    for content in (
        b"",
        b"no picture at all",
        b"\xff\xd8\xff" + bytes(5000),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ):
        (rig.media / "camera_image_0").mkdir(exist_ok=True)
        (rig.media / "camera_image_0" / "bad.jpg").write_bytes(content)
        bad = {**request, "imageUrls": [f"http://{files}/camera_image_0/bad.jpg", *request["imageUrls"][1:]]}
        assert "no readable image" in frame_error(address, bad)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1/camera_image_0/a.jpg", "does not list"),
        ("http://localhost/camera_image_0/a.jpg", "does not list"),
        ("http://2130706433/camera_image_0/a.jpg", "does not list"),
        ("http://[::1]/camera_image_0/a.jpg", "does not list"),
        ("http://169.254.169.254/camera_image_0/a.jpg", "does not list"),
        ("http://FILES@169.254.169.254/camera_image_0/a.jpg", "name or a password"),
        ("http://169.254.169.254\\@FILES/camera_image_0/a.jpg", ""),
        ("file:///etc/passwd", "no address"),
        ("ftp://FILES/camera_image_0/a.jpg", "no address"),
        ("http://FILES/redirect/camera_image_0/a.jpg", "not followed"),
        ("http://FILES/nothing/camera_image_0/a.jpg", "answers 404"),
        ("http://FILES/endless/camera_image_0/a.jpg", "larger than 2 MB"),
        (7, "no address"),
        ("http://" + "a" * 70_000, ""),
    ],
)
def test_addresses_that_are_not_fetched(rig: Rig, files: str, address: str, url: Any, says: str) -> None:
    request = rig.request(files)
    url = url.replace("FILES", files) if isinstance(url, str) else url
    assert says in frame_error(address, {**request, "imageUrls": [url, *request["imageUrls"][1:]]})
    assert says in frame_error(address, {**request, "cameraConfigUrl": url}) or "endless" in str(url)


def test_requests_that_are_none_are_refused_and_the_service_lives(rig: Rig, files: str, address: str) -> None:
    cases = [
        ({"content": b'{"datas": [' + b" " * 10_000_000 + b"]}"}, 413, "larger than"),
        ({"content": b"{"}, 400, "no JSON"),
        ({"content": b"[" * 500_000}, 400, "no JSON"),
        ({"content": b"[]"}, 400, "datas"),
        ({"content": b'{"datas": [1, 2, 3, 4, 5]}'}, 400, "1 to 4"),
        ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "application/json"),
    ]
    for options, status, says in cases:
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}  # type: ignore[dict-item]
        answer = httpx.post(address, headers=headers, timeout=30, trust_env=False, **options)  # type: ignore[arg-type]
        assert answer.status_code == status
        assert answer.json()["code"] == "ERROR"
        assert answer.json()["data"] == []
        assert says in answer.json()["message"]
    assert httpx.get(address, trust_env=False).status_code == 405
    for odd in (None, 3, [], {"id": {"deep": [1]}}):
        assert frame_error(address, odd)
    assert ask(address, [rig.request(files)]).json()["data"][0]["code"] == "OK"


def test_slow_senders_and_silent_ones_are_given_up(
    monkeypatch: pytest.MonkeyPatch, rig: Rig, files: str, address: str
) -> None:
    monkeypatch.setattr(serving, "_BODY_SECONDS", 0.5)
    host, port = address.removeprefix("http://").strip("/").split(":")
    silent = socket.create_connection((host, int(port)), timeout=10)
    silent.sendall(b"POST / HTTP/1.1\r\nHos")
    slow = socket.create_connection((host, int(port)), timeout=10)
    slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
    with silent, slow:
        assert silent.recv(10) == b""
        answer = b""
        while part := slow.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"ERROR"' in answer
    assert ask(address, [rig.request(files)]).json()["data"][0]["code"] == "OK"


def test_a_slow_file_server_costs_no_more_than_the_requests_time_and_others_are_told_to_come_again(
    rig: Rig, files: str
) -> None:
    limits = {"hosts": [files], "seconds": 1.0, "requests": 1, "frames": 4, "request_megabytes": 1, "file_megabytes": 2}
    moments = MomentModel(rig.model, CONFIG, conventions({"source": ".", **ENTRY}), np.full(10, SCORE))
    request = rig.request(files)
    slow = {**request, "cameraConfigUrl": f"http://{files}/drip/config.json"}
    with served(Service(moments, limits)) as address:
        answers: list[httpx.Response] = []
        waiting = threading.Thread(target=lambda: answers.append(ask(address, [slow, slow])))
        waiting.start()
        time.sleep(0.4)
        busy = ask(address, [request])
        assert busy.status_code == 503
        assert "come again" in busy.json()["message"]
        waiting.join(10)
        assert [one["code"] for one in answers[0].json()["data"]] == ["ERROR", "ERROR"]
        assert "longer than 1 s" in answers[0].json()["data"][0]["message"]
        assert frame_error(address, {**request, "imageUrls": request["imageUrls"][:2]}).startswith(
            "The frame has 2 cameras"
        )


def config_of(files: str, **serve: Any) -> dict[str, Any]:
    run = {"dataset": "lot", "model": str(Path("model.yml")), "weights": None, "min_score": SCORE}
    lot = {"kind": "xtreme1", "source": "gone", **ENTRY}
    return validate({"datasets": {"lot": lot}, "runs": {"first": run}, "serve": {"hosts": [files], **serve}})


def test_the_service_of_a_run_takes_its_export_its_scores_and_its_data_sets_settings(
    rig: Rig, files: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.yml").write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(PetrflowError, match="Export the run first"):
        service_of("first", config_of(files))
    Path("results/first").mkdir(parents=True)
    Path("results/first/export").symlink_to(rig.model.folder)
    Path("results/lot").mkdir()
    Path("results/lot/root").symlink_to(rig.about)
    with served(service_of("first", config_of(files))) as other:
        assert ask(other, [rig.request(files)]).json() == ask(address, [rig.request(files)]).json()
    with pytest.raises(PetrflowError, match="no run 'second'"):
        service_of("second", config_of(files))
    with pytest.raises(PetrflowError, match=r"serve\.hosts"):
        service_of("first", {**config_of(files), "serve": {**config_of(files)["serve"], "hosts": []}})


def test_what_serve_may_not_say_is_said_before_anything_starts() -> None:
    for serve, says in (
        ({"dataset": "lott"}, "no data set 'lott'"),
        ({"hosts": ["http://minio:9000"]}, "serve.hosts"),
        ({"port": 70_000}, "serve.port"),
    ):
        with pytest.raises(PetrflowError, match=says):
            config_of("minio:9000", **serve)


def test_a_served_data_set_that_is_none_of_xtreme1s_or_no_group_of_keys_is_a_sentence() -> None:
    run = {"dataset": "streets", "model": "model.yml"}
    for streets, says in (({"kind": "synthetic"}, "is of kind synthetic"), ([1], "datasets.streets")):
        with pytest.raises(PetrflowError, match=says):
            validate({"datasets": {"streets": streets}, "runs": {"first": run}, "serve": {"dataset": "streets"}})


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(PetrflowError, match="choose another port"):
            listen("127.0.0.1", bound.getsockname()[1])
