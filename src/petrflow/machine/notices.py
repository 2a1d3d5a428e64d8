"""Whether a cloud is about to take this machine away: each one says so at an address of its own.

What each address answers is in the clouds' documentation: AWS "Spot Instance interruption notices"
(two minutes before), Google "Preemption process" (30 seconds), Azure "Scheduled Events" (30 seconds
at least), Alibaba "Query the interruption events of preemptible instances" (five minutes).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import requests

POLL_SECONDS = 5.0
ANSWER_SECONDS = 2.0
"""Seconds that an address has to answer. It is on the machine's own link."""

ADDRESSES: Mapping[str, str] = {
    "aws": "http://169.254.169.254",
    "gcp": "http://metadata.google.internal",
    "azure": "http://169.254.169.254",
    "alibaba": "http://100.100.100.200",
}


class Notices:
    """The notices of one cloud.

    Parameters
    ----------
    cloud : {'aws', 'gcp', 'azure', 'alibaba'}
    address : str, optional
        Where the cloud answers, in place of its own address.
    """

    def __init__(self, cloud: str, address: str | None = None) -> None:
        self.cloud = cloud
        self._address = address or ADDRESSES[cloud]
        self._session = requests.Session()
        self._session.trust_env = False  # never through a proxy: the address means this machine
        self._token = ""

    def ask(self) -> str:
        """Return what the cloud says about the end of this machine; '' while it says nothing.

        Raises
        ------
        requests.RequestException
            Nobody answers: this is another cloud's machine, or its address is blocked.
        """
        return str(getattr(self, f"_{self.cloud}")())

    def _get(self, path: str, headers: Mapping[str, str] | None = None) -> requests.Response:
        return self._session.get(self._address + path, headers=headers, timeout=ANSWER_SECONDS, allow_redirects=False)

    def _aws(self) -> str:
        answer = self._get("/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token})
        if answer.status_code == 401:  # no token yet, or an old one
            asked = self._session.put(
                self._address + "/latest/api/token",
                headers={"X-aws-ec2-metadata-token-ttl-seconds": "21600"},
                timeout=ANSWER_SECONDS,
            )
            asked.raise_for_status()
            self._token = asked.text
            answer = self._get("/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token})
        if answer.status_code == 404:
            return ""
        answer.raise_for_status()
        notice: dict[str, Any] = answer.json()
        return f"{notice['action']} at {notice['time']}"

    def _gcp(self) -> str:
        answer = self._get("/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
        answer.raise_for_status()
        return "preempted" if answer.text.strip() == "TRUE" else ""

    def _azure(self) -> str:
        answer = self._get("/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"})
        answer.raise_for_status()
        for event in answer.json().get("Events", []):
            if event.get("EventType") in ("Preempt", "Terminate"):
                return f"{event['EventType']} not before {event.get('NotBefore') or 'now'}"
        return ""

    def _alibaba(self) -> str:
        answer = self._get("/latest/meta-data/instance/spot/termination-time")
        if answer.status_code == 404:
            return ""
        answer.raise_for_status()
        return f"termination at {answer.text.strip()}"


def watch(notices: Notices, told: Callable[[str], None], poll_seconds: float = POLL_SECONDS) -> threading.Event:
    """Ask in the background until there is a notice, and pass it on once.

    An address that does not answer is asked again: a metadata service may pause.

    Parameters
    ----------
    notices : Notices
    told : callable
        Called with the notice, in the background's thread.
    poll_seconds : float

    Returns
    -------
    Event
        Set it to end the watch.
    """
    ended = threading.Event()

    def ask_on() -> None:
        while not ended.wait(poll_seconds):
            try:
                said = notices.ask()
            except (requests.RequestException, ValueError, KeyError):
                continue
            if said:
                told(said)
                return

    threading.Thread(target=ask_on, daemon=True, name="petrflow-notices").start()
    return ended
