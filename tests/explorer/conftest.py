"""Headless Chromium for the pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium. Where there is none the test is skipped, in continuous integration it fails."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed; docs/install.md has the command")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        missing("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address in a window of its own.

    The test fails on any error or warning that the page reports, and if it asks for anything outside itself, or, with
    ``allowed``, outside what begins with that. ``expected``: part of a complaint that is right.
    """
    contexts, complaints = [], []

    def open_page(
        address: str,
        width: int = 1400,
        height: int = 900,
        allowed: str | None = None,
        expected: str | None = None,
        **options: Any,
    ) -> Page:
        def complain(text: str) -> None:
            if not (expected and expected in text):
                complaints.append(text)

        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("console", lambda line: complain(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda request: _only(request.url, allowed or address, complain))
        page.goto(address)
        if options.get("java_script_enabled", True) and page.evaluate("'explorer' in window"):
            page.evaluate("explorer.ready")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def _only(url: str, allowed: str, complain: Callable[[str], None]) -> None:
    if not url.startswith(("data:", "blob:", allowed)):
        complain(f"asked for {url}")


def missing(reason: str) -> NoReturn:
    """Skip the test that needs what is missing; in continuous integration it must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"continuous integration must look at the pages: {reason}")
    pytest.skip(reason)
