"""Headless Chromium for the pages."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qsl

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


COLOURS = """
    const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const painted = (...colours) => {
        pen.clearRect(0, 0, 1, 1);
        for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
        return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const backgrounds = (node) =>
        node ? [...backgrounds(node.parentElement), getComputedStyle(node).backgroundColor] : [];
    const luminance = (rgb) => {
        const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (a, b) => {
        const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
        return (high + 0.05) / (low + 0.05);
    };
"""
LOW_CONTRAST = (
    f"() => {{{COLOURS}"
    + """
    const low = [];
    let [texts, bars] = [0, 0];
    for (const node of document.body.querySelectorAll("*")) {
        const words = [...node.childNodes].filter((child) => child.nodeType === 3 && child.data.trim());
        if (!words.length || !node.checkVisibility() || node.matches(":disabled, :disabled *, option")) continue;
        if (node.closest("label")?.querySelector(":disabled") || node.closest("script, style, svg, noscript")) continue;
        texts++;
        const behind = backgrounds(node);
        const ratio = contrast(painted(...behind, getComputedStyle(node).color), painted(...behind));
        if (ratio < 4.5) low.push(`${node.className || node.tagName} "${words[0].data.trim()}": ${ratio.toFixed(2)}`);
    }
    for (const fill of document.querySelectorAll(".bar > span, .rank-bar > span")) {
        if (!fill.checkVisibility()) continue;
        bars++;
        const ratio = contrast(painted(...backgrounds(fill)), painted(...backgrounds(fill.parentElement)));
        if (ratio < 3) low.push(`bar in ${fill.closest("[class]").parentElement.className}: ${ratio.toFixed(2)}`);
    }
    for (const only of document.querySelectorAll(".only")) {  // on a picture, which may be white
        const {color, backgroundColor} = getComputedStyle(only);
        const ratio = contrast(painted("white", backgroundColor, color), painted("white", backgroundColor));
        if (ratio < 4.5) low.push(`.only on white: ${ratio.toFixed(2)}`);
    }
    for (const field of document.querySelectorAll("[placeholder]")) {
        const behind = backgrounds(field);
        const colour = getComputedStyle(field, "::placeholder").color;
        const ratio = contrast(painted(...behind, colour), painted(...behind));
        if (ratio < 4.5) low.push(`placeholder of ${field.id}: ${ratio.toFixed(2)}`);
    }
    return {low, texts, bars};
}"""
)


def low_contrast(window: Page) -> list[str]:
    """Visible texts whose contrast is below 4.5, and bars below 3, from the colours that the browser computed."""
    found = window.evaluate(LOW_CONTRAST)
    assert found["texts"] > 5
    return found["low"]


def hash_of(window: Page) -> dict[str, str]:
    """Keys and values of the page's address."""
    return dict(parse_qsl(window.evaluate("location.hash.slice(1)"), keep_blank_values=True))


FOCUS = (
    f"() => {{{COLOURS}"
    + """
    const node = document.activeElement;
    if (node === document.body) return null;
    const ring = node.closest(".button") ?? (node.id === "picture" ? node.closest(".frame") : null)
        ?? (node.closest(".segments") ? node.nextElementSibling : node);
    const {outlineStyle, outlineWidth, outlineColor} = getComputedStyle(ring);
    const behind = node.matches(".only") ? ["black"] : backgrounds(ring.parentElement);
    const drawn = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
    const all = [...document.querySelectorAll("*")];
    return {
        what: node.id || node.className || node.textContent.trim().slice(0, 20),
        place: all.indexOf(node),
        ratio: drawn ? contrast(painted(...behind, outlineColor), painted(...behind)) : 0,
    };
}"""
)


def tabbed(window: Page, most: int = 80) -> list[dict[str, Any]]:
    """What Tab reaches, from the top: name, place in the document, contrast of its focus ring, accessible name."""
    reached: list[dict[str, Any]] = []
    for _ in range(most):
        window.keyboard.press("Tab")
        focus = window.evaluate(FOCUS)
        if focus and reached and focus["place"] == reached[0]["place"]:
            top = min(range(len(reached)), key=lambda at: reached[at]["place"])
            return reached[top:] + reached[:top]
        if focus:
            reached.append({**focus, "name": window.locator(":focus").aria_snapshot()})
    raise AssertionError(f"Tab does not come back to {reached[:1]}")


def assert_reachable(window: Page) -> list[str]:
    """Tab goes through the document from top to bottom; each stop has a name and a ring that can be seen."""
    reached = tabbed(window)
    assert [stop["place"] for stop in reached] == sorted(stop["place"] for stop in reached)
    assert [(stop["what"], stop["ratio"]) for stop in reached if stop["ratio"] < 3] == []
    assert [stop["what"] for stop in reached if not re.search(r"\w", stop["name"].partition(" ")[2])] == []
    return [stop["what"] for stop in reached]


def missing(reason: str) -> NoReturn:
    """Skip the test that needs what is missing; in continuous integration it must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"continuous integration must look at the pages: {reason}")
    pytest.skip(reason)
