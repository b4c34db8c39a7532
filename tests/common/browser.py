"""Finds a Chromium for the browser tests, and opens it with the network off."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """Path of an installed Chromium; the variable CHROMIUM goes before the usual names."""
    chosen = os.environ.get("CHROMIUM")
    return chosen or next((path for name in NAMES if (path := shutil.which(name))), None)


def require_chromium() -> str:
    """The path, or a skip; under CI a failure, because there a skipped browser test would never be noticed."""
    path = find_chromium()
    if path:
        return path
    message = f"no Chromium found among {', '.join(NAMES)}; install one or set CHROMIUM to its path"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@dataclass
class Seen:
    """What a page did: the tab, the requests it tried beyond its own file, and everything it complained about."""

    tab: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def launched() -> Iterator[Any]:
    """A headless Chromium; starting it takes seconds, so a test file starts one."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    path = require_chromium()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, file: Path, *, dark: bool = False, width: int = 1200, height: int = 900) -> Iterator[Seen]:
    """The file in a fresh tab, offline; every request but the file itself is written down and refused."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
    try:
        seen = Seen(context.new_page())
        address = file.as_uri()

        def decide(route: Any) -> None:
            if route.request.url.split("#")[0] == address:
                route.continue_()
            else:
                seen.requests.append(route.request.url)
                route.abort()

        seen.tab.route("**/*", decide)
        seen.tab.on("console", lambda message: _note(seen, message.type, message.text))
        seen.tab.on("pageerror", lambda error: seen.complaints.append(f"error: {error}"))
        seen.tab.goto(address)
        yield seen
    finally:
        context.close()


def _note(seen: Seen, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        seen.complaints.append(f"{kind}: {text}")
