"""A headless Chromium that opens the HTML pages, for screenshots and for tests."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NoChromium(Exception):
    """What is missing on this machine, and how to get it."""


@contextmanager
def chromium(downloads: Path) -> Iterator[Any]:
    """A Chromium of 1280 x 900 that saves downloads there.

    Raises:
        NoChromium: it, its driver or the package that drives it is not installed.
    """
    try:
        from selenium import webdriver
    except ImportError:
        raise NoChromium("selenium is not installed: pip install selenium") from None
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        raise NoChromium("no Chromium on this machine: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield session
    finally:
        session.quit()


def set_window(session: Any, width: int, height: int) -> None:
    """The page's own size, without the window's frame; also narrower than a window may be."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    session.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def slide(session: Any, selector: str, value: float) -> None:
    """Move a slider as a hand does: it tells the page by an input event."""
    moved = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
    session.execute_script(moved, session.find_element("css selector", selector), value)


def eventually(what: Callable[[], Any], *, within_s: float = 120) -> Any:
    """The first truthy answer."""
    end = time.monotonic() + within_s
    while not (answer := what()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return answer
