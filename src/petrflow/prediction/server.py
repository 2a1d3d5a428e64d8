"""The model service that Xtreme1 calls: addresses of a moment's pictures and calibration in, boxes
out.

    python -m petrflow.prediction.server RUN

A request names one moment. Its pictures stand for those of the frame before, too, as at the start
of a scene, and velocities are not answered: Xtreme1's answer has no place for them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from petrflow.config import load_config, load_model, model_path, raise_all
from petrflow.errors import PetrflowError
from petrflow.prediction.fetching import Fetcher
from petrflow.prediction.xtreme1_moments import Found, MomentModel, cameras_of

_LOG = logging.getLogger("petrflow.serve")
_MOST_PICTURES = 32
_CONFIG_BYTES = 1_000_000
_BODY_SECONDS = 10.0
"""s in which the whole of a request must have come."""
_DRAINED = 64 << 20
"""Bytes of a request too large that are still taken and thrown away, so that its sender reads the
answer.
"""
_CONNECTIONS = 64

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class _Refused(Exception):
    """A request that is answered with an error; ``status`` is HTTP's."""

    def __init__(self, status: int, says: str) -> None:
        super().__init__(says)
        self.status = status


class Service:
    """The service as an ASGI application.

    Parameters
    ----------
    model : MomentModel
    limits : mapping
        ``serve`` of the config.
    """

    def __init__(self, model: MomentModel, limits: Mapping[str, Any]) -> None:
        self._model, self._limits = model, limits
        self._fetcher: Fetcher | None = None
        self._busy = 0
        # One thread: Paddle's predictor serves one at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; every answer has Xtreme1's form."""
        if scope["type"] != "http":
            return
        self._fetcher = self._fetcher or Fetcher(self._limits["hosts"], int(self._limits["file_megabytes"] * 1e6))
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._body(scope, receive)
            status, answer = 200, await self._answer(body)
        except _Refused as error:
            status, answer = error.status, _said(str(error))
        except TimeoutError:
            status, answer = 408, _said(f"The request did not arrive within {_BODY_SECONDS:g} s.")
        except ConnectionError:
            return  # nobody is there to be answered
        except Exception:
            _LOG.exception("A request failed")
            status, answer = 500, _said("The service failed; its log says more.")
        content = orjson.dumps(answer)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _body(self, scope: Mapping[str, Any], receive: Receive) -> bytes:
        if scope["method"] != "POST":
            raise _Refused(405, "Requests are POSTs.")
        headers = {name.lower(): value for name, value in scope["headers"]}
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            # Pages in a browser may send other types to any address without asking.
            raise _Refused(415, "Content-Type must be application/json.")
        largest = int(self._limits["request_megabytes"] * 1e6)
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            part = message.get("body", b"")
            size, more = size + len(part), message.get("more_body", False)
            if size <= largest:
                parts.append(part)
            else:
                parts.clear()
            if size > _DRAINED:
                break
        if size > largest:
            raise _Refused(413, f"The request is larger than {largest / 1e6:g} MB (`serve.request_megabytes`).")
        return b"".join(parts)

    async def _answer(self, body: bytes) -> dict[str, Any]:
        frames = _frames(body, self._limits["frames"])
        if self._busy >= self._limits["requests"]:
            raise _Refused(503, f"{self._busy} requests are worked on already (`serve.requests`): come again.")
        self._busy += 1
        try:
            deadline = asyncio.get_running_loop().time() + self._limits["seconds"]
            return {"code": "OK", "message": "", "data": [await self._frame(frame, deadline) for frame in frames]}
        finally:
            self._busy -= 1

    async def _frame(self, frame: Any, deadline: float) -> dict[str, Any]:
        number = frame.get("id") if isinstance(frame, dict) else None
        if not isinstance(number, int | str):
            number = None
        with tempfile.TemporaryDirectory(prefix="petrflow-serve-", ignore_cleanup_errors=True) as scratch:
            folder = Path(scratch)
            try:
                async with asyncio.timeout_at(deadline):
                    found = await self._found(frame, folder)
            except TimeoutError:
                return _failed(number, f"The request took longer than {self._limits['seconds']:g} s (`serve.seconds`).")
            except PetrflowError as error:
                return _failed(number, str(error).replace(f"{folder}/", "").replace(str(folder), ""))
            except Exception:
                _LOG.exception("A frame failed")
                return _failed(number, "The service failed on this frame; its log says more.")
        return {
            "id": number,
            "code": "OK",
            "message": "",
            "confidence": round(float(found.scores.mean()), 4) if len(found.scores) else 0.0,
            "objects": _objects(found),
        }

    async def _found(self, frame: Any, folder: Path) -> Found:
        """Fetch what a frame names and ask the model."""
        assert self._fetcher is not None
        if not isinstance(frame, dict):
            raise PetrflowError("An entry of datas is no object with id, imageUrls and cameraConfigUrl.")
        listed = frame.get("imageUrls")
        if not isinstance(listed, list) or not 1 <= len(listed) <= _MOST_PICTURES:
            raise PetrflowError(f"imageUrls is no list of 1 to {_MOST_PICTURES} addresses.")
        config = self._fetcher.check(frame.get("cameraConfigUrl"), "cameraConfigUrl")
        urls = [self._fetcher.check(url, f"imageUrls[{place}]") for place, url in enumerate(listed)]
        cameras = cameras_of(listed, [unquote(url.path) for url in urls])
        wanted = self._model.wanted(cameras)
        files = {camera: folder / f"picture-{camera.encode().hex()[:60]}" for camera in wanted}
        made = folder / "made"
        made.mkdir()
        await _together(
            self._fetcher.fetch(config, folder / "camera_config", "cameraConfigUrl", _CONFIG_BYTES),
            *(
                self._fetcher.fetch(url, files[camera], f"imageUrls[{place}]")
                for place, (url, camera) in enumerate(zip(urls, cameras, strict=True))
                if camera in files
            ),
        )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, self._model.find, folder / "camera_config", files, cameras, made
        )


async def _together(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run jobs at once; when one fails, the others have ended before its error is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _frames(body: bytes, most: int) -> list[Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _Refused(400, f"The request is no JSON ({error}).") from None
    frames = content.get("datas") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not 1 <= len(frames) <= most:
        raise _Refused(400, f"The request has no list `datas` of 1 to {most} frames.")
    return frames


def _said(message: str) -> dict[str, Any]:
    return {"code": "ERROR", "message": message, "data": []}


def _failed(number: int | str | None, message: str) -> dict[str, Any]:
    return {"id": number, "code": "ERROR", "message": message, "confidence": 0.0, "objects": []}


def _objects(found: Found) -> list[dict[str, Any]]:
    objects = []
    for name, score, centre, size, yaw in zip(
        found.names, found.scores, found.centres, found.sizes, found.yaws, strict=True
    ):
        x, y, z = (float(value) for value in centre)
        dx, dy, dz = (float(value) for value in size)
        box = {"x": x, "y": y, "z": z, "dx": dx, "dy": dy, "dz": dz, "rotX": 0.0, "rotY": 0.0, "rotZ": float(yaw)}
        objects.append({"label": name, "confidence": round(float(score), 4), **box})
    return objects


# ------------------------------------------------------------------------------------------------------------------ serving


class _Protocol(H11Protocol):
    """uvicorn's, with an end to the wait for a request's headers, which uvicorn does not have."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_BODY_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, or say why there is none."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        raise PetrflowError(f"serve: nobody can listen on {host}:{port} ({error.strerror}); choose another port or host in `serve`.") from error  # fmt: skip
    return bound


def server_of(service: Service) -> uvicorn.Server:
    """Return the HTTP server around a service; ``run(sockets=[...])`` starts it."""
    return uvicorn.Server(
        uvicorn.Config(
            service,
            http=_Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            h11_max_incomplete_event_size=16_384,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
        )
    )


def service_of(run: str, config: Mapping[str, Any]) -> Service:
    """Return the service on a run's exported model.

    Raises
    ------
    PetrflowError
        The run is not there, has no export, or `serve` does not say where pictures come from.
    """
    from petrflow.evaluation.thresholds import FILE as THRESHOLDS
    from petrflow.evaluation.thresholds import class_scores
    from petrflow.export.exported import ExportedModel
    from petrflow.machine.device import use_device
    from petrflow.sources.xtreme1.prepare import FRAMES
    from petrflow.sources.xtreme1.settings import conventions

    if run not in config["runs"]:
        raise PetrflowError(f"There is no run {run!r}; the config has {', '.join(config['runs'])}.")
    entry, limits = config["runs"][run], config["serve"]
    if not limits["hosts"]:
        raise PetrflowError(
            "`serve.hosts` lists no host, so that no picture could be fetched: add the host of Xtreme1's links to the config, such as "
            "`serve: {hosts: ['minio:9000']}`."
        )
    name = limits["dataset"] or entry["dataset"]
    dataset = config["datasets"][name]
    of_xtreme1 = dataset["kind"] == "xtreme1"
    settings = conventions(dataset if of_xtreme1 else {"source": "."})
    folder = Path("results") / run
    model_config = load_model(model_path(entry["model"], [Path("config/models")]))
    use_device(entry["schedule"]["device"])
    scores = class_scores(folder / "train" / THRESHOLDS, model_config["class_names"], entry["min_score"])
    way_back = Path("results") / name / "root" / FRAMES if of_xtreme1 else None
    model = MomentModel(ExportedModel(folder / "export"), model_config, settings, scores, way_back)
    return Service(model, limits)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m petrflow.prediction.server", description="The model service that Xtreme1 calls."
    )
    parser.add_argument("run", help="a run of the config whose model is exported")
    parser.add_argument("--configfile", type=Path, nargs="+", default=[Path("config/config.yaml")])
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.ERROR)  # its lines hold whole addresses, signatures included
    try:
        document = load_config(options.configfile)
        raise_all(document.mistakes)
        config = document.values
        service, place = service_of(options.run, config), config["serve"]
        bound = listen(place["host"], place["port"])
    except PetrflowError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    host, port = bound.getsockname()[:2]
    print(f"Model service of {options.run}: http://{host}:{port}/ (Ctrl-C ends it)", flush=True)
    server_of(service).run(sockets=[bound])
    return 0


if __name__ == "__main__":
    sys.exit(main())
