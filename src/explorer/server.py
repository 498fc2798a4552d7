"""Serve the explorer to this user's own browser: the page, photos, and answers to requests about them.

Any web page in the same browser could send requests here, so requests to another host name (Host) or from another page
(Origin, Sec-Fetch-Site) are refused. A link may open the page itself. Clients may be slow, silent or gone: connections,
uploads and the time for each are limited, and requests of disconnected clients are not computed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import socket
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import UserError
from ..evaluation.provenance import command_line
from ..screen import note
from .page import page
from .studio import Studio

MAX_PHOTO_BYTES = 64 * 2**20
MAX_QUESTION_BYTES = 64 * 2**10
MAX_CONNECTIONS = 128
MAX_UPLOADS = 2  # received at the same time: each holds its bytes in memory
HEAD_SECONDS = 20.0  # for the head of a request
PAUSE_SECONDS = 15.0  # between two parts of a body
BODY_SECONDS = 300.0  # for a whole body
# the page in its file may load nothing at all; served, it may ask its own server
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)
SECURITY = {
    "content-security-policy": f"{POLICY}; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Answer(JSONResponse):
    """JSON in ASCII, which can hold file names that are not UTF-8."""

    def render(self, content: Any) -> bytes:
        """Encode ``content``."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Refusal(Exception):
    """A request that gets a line of text and this status as its answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def serve(listener: socket.socket, studio: Studio, host: str, classes: str | None, background: str | None) -> None:
    """Answer requests at ``listener`` until Ctrl-C."""
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after the shutdown
        uvicorn.Server(server_config(make_app(studio, host, classes, background))).run(sockets=[listener])


def server_config(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn runs ``app``. It logs nothing: :class:`Guard` reports errors."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.CRITICAL + 1,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )


class Connection(H11Protocol):
    """A connection that ends when a request's head does not arrive in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._expect_head()

    def on_response_complete(self) -> None:
        """Restart the clock for the next request."""
        super().on_response_complete()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        if self._deadline:
            self._deadline.cancel()

    def _expect_head(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._end_if_waiting)

    def _end_if_waiting(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def make_app(studio: Studio, host: str, classes: str | None = None, background: str | None = None) -> ASGIApp:
    """The server as an ASGI application at the address ``host``; ``classes`` and ``background`` are initial words."""
    model = asyncio.Lock()  # one request at a time; the others wait in order
    decoding = asyncio.Semaphore(2)  # photos are large, and a page requests many thumbnails at once
    receiving = asyncio.Semaphore(MAX_UPLOADS)

    async def index(_: Request) -> Response:
        photos = [{"key": key, "name": photo.name} for key, photo in list(studio.photos.items())]
        server = {"photos": photos, "classes": classes or "", "background": background or ""}
        return Response(
            page({"name": "Attention explorer", "server": server}, command_line(), POLICY), media_type="text/html"
        )

    async def explore(request: Request) -> Response:
        body = await _body(request, MAX_QUESTION_BYTES, "these words are")
        photo, classes, background = _question(body, {"photo": str, "classes": str, "background": str})
        return await ask_model(request, studio.explore, photo, classes.strip() or None, background.strip() or None)

    async def parts(request: Request) -> Response:
        body = await _body(request, MAX_QUESTION_BYTES, "this word is")
        return await ask_model(request, studio.parts, *_question(body, {"photo": str, "word": str, "layer": int}))

    async def ask_model(request: Request, function: Callable[..., Any], *question: Any) -> Response:
        async with model:
            await _see_that_client_waits(request)
            return Answer(await run_in_threadpool(function, *question))

    async def add(request: Request) -> Response:
        name = request.query_params.get("name", "photo")[-200:]
        async with receiving:  # waiting requests stay in the sockets
            contents = await _body(request, MAX_PHOTO_BYTES, f"{name} is")
            return Answer({"key": await run_in_threadpool(studio.add, name, contents), "name": name})

    async def thumbnail(request: Request) -> Response:
        async with decoding:
            await _see_that_client_waits(request)
            contents = await run_in_threadpool(studio.thumbnail, request.path_params["key"])
        return Response(contents, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    routes = [
        Route("/", index),
        Route("/explore", _answered(explore), methods=["POST"]),
        Route("/parts", _answered(parts), methods=["POST"]),
        Route("/photos", _answered(add), methods=["POST"]),
        Route("/photos/{key}", _answered(thumbnail)),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={Exception: _defect}), host)


def _defect(_: Request, error: Exception) -> Response:
    """The answer after an unexpected error, such as no memory left."""
    note("".join(traceback.format_exception(error)))
    return Answer({"error": f"{type(error).__name__}: {error} (more in the terminal)"}, 500)


def _answered(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """``endpoint``, with refusals and user errors as a line for the page."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            return Answer({"error": str(refusal)}, refusal.status)
        except UserError as error:
            return Answer({"error": str(error)}, 400)
        except ClientDisconnect:
            return Response(status_code=400)

    return answer


async def _see_that_client_waits(request: Request) -> None:
    """Raise ClientDisconnect if the client hung up while its request waited for its turn."""
    if await request.is_disconnected():
        raise ClientDisconnect


def _question(body: bytes, expected: dict[str, type]) -> list[Any]:
    """The values of a request in JSON, in the order of ``expected``: their names and types."""
    try:
        values: Any = json.loads(body)
        question = [values[name] for name in expected]
    except (ValueError, KeyError, TypeError, RecursionError):
        question = []
    if not question or any(type(value) is not kind for value, kind in zip(question, expected.values(), strict=True)):
        kinds = {str: "text", int: "number"}
        shown = ", ".join(f'"{name}": {kinds[kind]}' for name, kind in expected.items())
        raise Refusal(400, f"expected JSON: {{{shown}}}")
    return question


async def _body(request: Request, most: int, what: str) -> bytes:
    """The body of ``request``, of at most ``most`` bytes, received in time."""
    body = bytearray()
    parts = request.stream().__aiter__()
    try:
        with anyio.fail_after(BODY_SECONDS):
            while True:
                with anyio.fail_after(PAUSE_SECONDS):
                    body += await anext(parts)
                if len(body) > most:
                    size = f"{most // 2**20} MiB" if most >= 2**20 else f"{most // 2**10} KiB"
                    raise Refusal(413, f"{what} too large: at most {size} are accepted here")
    except StopAsyncIteration:
        return bytes(body)
    except TimeoutError:
        raise Refusal(408, "the rest of the request did not arrive in time; send it again") from None


class Guard:
    """Refuses requests that do not come from the page of this server, sets security headers and reports errors.

    Args:
        host: the address of the server. A loopback address accepts only names of loopback; any other also numeric
            addresses and this machine's name, but no other name, which could be pointed here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.loopback_only = _is_loopback(host)
        names = {"localhost"}
        if not self.loopback_only:
            names |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            with anyio.fail_after(BODY_SECONDS):  # a client that does not read its answer
                await send(message)

        reason = self.refusal(Headers(scope=scope), opens_page=scope["method"] == "GET" and scope["path"] == "/")
        app: ASGIApp = Answer({"error": reason}, 403) if reason else self.app
        try:
            await app(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # Ctrl-C while the request was waiting or computed
            if started:
                raise
            await Answer({"error": "the explorer has ended"}, 503)(scope, receive, send_with_headers)
        except Exception:  # reported by _defect, or a client that does not read: uvicorn closes the connection
            return

    def refusal(self, headers: Headers, opens_page: bool = False) -> str | None:
        """Why a request with these headers is refused; None if it is not.

        ``opens_page``: the request is for the page itself, which a link in another page may open in a tab.
        """
        host = headers.get("host", "")
        if not self._is_ours(host):
            return f"this server is not called {host!r}"
        origin = headers.get("origin")
        if origin is not None and not _same_origin(origin, host):
            return f"requests of pages from {origin} are not answered"
        followed_link = (
            opens_page and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        )
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") and not followed_link:
            return "requests of other pages are not answered"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback_only


def _same_origin(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin)[:2] == ("http", host)
    except ValueError:  # no address at all, such as http://[
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
