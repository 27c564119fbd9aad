"""A real headless Chromium for tests: `headless` gives a driver; `NEEDS` are the marks of a module that uses it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
NEEDS = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium"),
    pytest.mark.skipif(DRIVER is None, reason="needs the program chromedriver"),
]
BAD = "<script>window.owned = 1</script><img src=x onerror='window.owned = 2'>"
"""Text that a page must show and not run."""


@contextmanager
def headless(*, width: int, height: int, reach: str = "") -> Iterator[Any]:
    """A driver that keeps its logs and reaches no host but `reach`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    hosts = "MAP * ~NOTFOUND" + (f", EXCLUDE {reach}" if reach else "")
    flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}", "--no-first-run"]
    for flag in (*flags, "--disable-background-networking", f"--host-resolver-rules={hosts}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
