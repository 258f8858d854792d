"""The browser that tests of pages drive: its program, how it is started, and how long it is waited for."""

import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
PLAIN = "plain.test"
"""A name of this machine that the browser does not trust: plain http, as in a local network."""
RULES = f"MAP {PLAIN} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", f"--host-resolver-rules={RULES}")
PATIENCE = 120_000
"""Milliseconds for what ends at once on a machine that is not busy."""


def find_browser() -> str:
    """The program of a browser; skips where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed (Debian: apt-get install chromium)")
    return found
