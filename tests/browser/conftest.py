"""A headless Chromium that opens files from disk; the tests are skipped where Chromium or its driver is not installed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)

MISSING = "Chromium and its driver are not installed: apt-get install chromium chromium-driver"


class Browser:
    """What the tests ask of a browser.

    Attributes
    ----------
    driver : selenium.webdriver.Chrome
    """

    def __init__(self, binary: str, service: str, profile: Path) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))

    def open(self, path: Path, language: str = "en", width: int = 1280, height: int = 900, fragment: str = "") -> None:
        """Open a file in a browser of a person who reads ``language``."""
        agent = self.run("return navigator.userAgent")
        for command, arguments in (
            ("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": language}),
            (
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
            ),
        ):
            self.driver.execute_cdp_cmd(command, arguments)
        self.driver.get("about:blank")  # a fragment alone would open nothing anew
        self.complaints(), self.requests()
        self.driver.get(path.resolve().as_uri() + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, seconds: float = 20) -> Any:
        """Return what a script returns as soon as it is true."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(lambda _: self.run(script))

    def complaints(self) -> list[str]:
        """Return what the console has got since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the last call."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def require_quiet(self) -> None:
        """Assert that nothing was complained of and nothing was asked of a network."""
        assert self.complaints() == []
        assert [url for url in self.requests() if not url.startswith(("file:", "data:", "about:", "blob:"))] == []

    def shows(self, selector: str) -> str:
        """Return the text that a person sees in an element."""
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector)).strip()

    def click(self, selector: str) -> None:
        """Click an element."""
        self.run("document.querySelector(arguments[0]).click()", selector)

    def overflow(self) -> int:
        """Return how many pixels the page is wider than its window."""
        return int(self.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def installed() -> tuple[str, str] | None:
    """Return the paths of Chromium and of its driver; None where one is missing."""
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next((found for name in names if (found := shutil.which(name))), None)
    service = shutil.which("chromedriver")
    return (binary, service) if binary and service else None


@contextlib.contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with a profile folder of its own, and end it."""
    found = installed()
    if found is None:
        raise SystemExit(MISSING)
    opened = Browser(*found, profile)
    try:
        yield opened
    finally:
        opened.driver.quit()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if installed() is None:
        pytest.skip(MISSING)
    with open_browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened
