"""Tell somebody how a workflow ended: by a command, or by a message to a webhook.

What sends has a process of its own, so that a server that answers one byte a minute is left after
:data:`SECONDS` like any other. A link may hold a token in its path as well as in its query: nothing
but the server's name is ever printed, and the link reaches the process on its standard input, where
no list of processes shows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# What sends is this file, run by itself, and petrflow need not be installed where Snakemake is.
sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))

from petrflow.messages import _

SECONDS = 10.0
"""s; what a hook may take before it is ended."""

LONGEST = 1900
"""bytes; WeCom refuses texts of more than 2048."""

Figures = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Figures of each run: ``{"default": {"mAP": {"before": 0.1, "after": 0.3}, "NDS": …}}``."""


def link_of(hook: Mapping[str, Any]) -> str:
    """A hook's link, from the config or from the environment; an empty text where there is none."""
    return str(hook.get("url") or os.environ.get(hook.get("url_env") or "", "")).strip()


def fault_of(hook: Mapping[str, Any]) -> str | None:
    """What keeps a checked hook from being told anything, before it is tried; None for nothing."""
    if not hook.get("kind"):
        return None
    link = link_of(hook)
    if not link:
        return _("the environment variable {name} is not set.", name=hook.get("url_env"))
    try:
        parts = urlsplit(link)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        sound = False
    if sound:
        return None
    return _(
        "{name} holds no link that begins with http:// or https:// and names a server.",
        name=hook.get("url_env") or "notify.url",
    )


def body(kind: str, event: str, text: str, figures: Figures) -> dict[str, Any]:
    """What is posted to a webhook.

    Parameters
    ----------
    kind : str
        ``wecom``, ``dingtalk``, ``feishu``, ``slack`` or ``json``.
    event : str
        ``done``, ``failed`` or ``stopped``.
    text : str
        What a person reads.
    figures : mapping
        As :data:`Figures`; for ``json``.
    """
    if kind in ("wecom", "dingtalk"):
        return {"msgtype": "text", "text": {"content": text}}
    if kind == "feishu":
        return {"msg_type": "text", "content": {"text": text}}
    if kind == "slack":  # its markup begins with these
        return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
    return {"event": event, "text": text, "runs": figures}


def tell(hook: Mapping[str, Any], event: str, text: str, figures: Figures, seconds: float = SECONDS) -> str | None:
    """Run a hook; return a sentence about it where it failed. Raises nothing.

    Parameters
    ----------
    hook : mapping
        The checked section ``notify``.
    event, text, figures
        As :func:`body` takes them. A command gets the text on standard input and the event in
        ``PETRFLOW_EVENT``.
    seconds : float
        s; the hook and all that it started are ended after them.
    """
    text = text.encode()[:LONGEST].decode(errors="ignore")
    try:
        if sentence := fault_of(hook):
            return sentence
        if hook.get("kind"):
            request = {"url": link_of(hook), "body": body(hook["kind"], event, text, figures), "seconds": seconds}
            code, said = _run([sys.executable, str(Path(__file__))], json.dumps(request), seconds)
            name = urlsplit(link_of(hook)).hostname
            if code is None:
                return _("{name} gave no answer in {seconds} s.", name=name, seconds=f"{seconds:g}")
            return None if code == 0 else f"{name}: {said.strip()}"
        if hook.get("command"):
            # What it prints is dropped: it may hold a link, and what it left behind in the background may hold a pipe open.
            silent = f"exec >/dev/null\n{hook['command']}"
            code, said = _run(["/bin/sh", "-c", silent], text, seconds, {"PETRFLOW_EVENT": event})
            if code is None:
                return _("the command was ended after {seconds} s.", seconds=f"{seconds:g}")
            return None if code == 0 else _("the command ended with code {code}.", code=code)
    except KeyboardInterrupt:
        return _("it was interrupted.")
    except Exception as error:  # whatever it is, it must not harm what it tells of; its text may hold the link
        return _("it failed ({kind}).", kind=type(error).__name__)
    return None


def _run(
    command: list[str], given: str, seconds: float, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Run a command in a session of its own; return its code, None when time was up, and what it
    printed.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    try:
        said, _errors = process.communicate(given.encode(), timeout=seconds)
        return process.returncode, said.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def post(request: Mapping[str, Any]) -> str | None:
    """Post a body; return what the server did instead of taking it. The chat services answer 200 to
    what they refuse, with a code that is not 0.
    """
    import requests

    try:
        # A redirect would carry the text to a server that nobody named.
        answer = requests.post(request["url"], json=request["body"], timeout=request["seconds"], allow_redirects=False)
    except requests.RequestException as error:  # its text holds the link
        return _("the server could not be reached ({kind}).", kind=type(error).__name__)
    if not 200 <= answer.status_code < 300:
        return _("the server answered {code}.", code=answer.status_code)
    with contextlib.suppress(ValueError, AttributeError):
        said = answer.json()
        code = said.get("errcode", said.get("code", 0))
        if isinstance(code, int) and code:
            return _("the server refused the message with its code {code}.", code=code)
    return None


if __name__ == "__main__":
    if failure := post(json.load(sys.stdin)):
        print(failure)
        sys.exit(1)
