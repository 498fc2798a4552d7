"""Serving the explorer: a page, photos, and answers, to this user's own browser and nobody else.

A page from elsewhere in the same browser could send requests here too. It cannot hide where it comes from: whatever was
asked for under another name than this machine's (Host) or by another page (Origin, Sec-Fetch-Site) is refused.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import traceback
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import UserError
from ..screen import note
from .page import page
from .studio import Studio

MAX_PHOTO_BYTES = 64 * 2**20
MAX_QUESTION_BYTES = 64 * 2**10
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


class Refusal(Exception):
    """A request that is answered with a line of text and this status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def serve(listener: socket.socket, studio: Studio, host: str, classes: str | None, background: str | None) -> None:
    """Answer requests at ``listener`` until Ctrl-C."""
    config = uvicorn.Config(
        make_app(studio, host, classes, background),
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has answered what was under way and raises it again
        pass
    finally:
        studio.close()


def make_app(studio: Studio, host: str, classes: str | None = None, background: str | None = None) -> ASGIApp:
    """The server as an ASGI application.

    Args:
        studio: answers.
        host: the address it listens on.
        classes, background: the words that the page begins with.
    """
    model = asyncio.Lock()  # one question at a time; the others wait in their order
    decoding = asyncio.Semaphore(2)  # photos are large, and a page asks for many thumbnails at once

    async def index(_: Request) -> Response:
        photos = [{"key": key, "name": photo.name} for key, photo in studio.photos.items()]
        server = {"photos": photos, "classes": classes or "", "background": background or ""}
        return Response(page({"name": "Attention explorer", "server": server}, POLICY), media_type="text/html")

    async def explore(request: Request) -> Response:
        question = _question(await _body(request, MAX_QUESTION_BYTES, "these words are"))
        async with model:
            return JSONResponse(await run_in_threadpool(studio.explore, *question))

    async def add(request: Request) -> Response:
        name = request.query_params.get("name", "photo")[-200:]
        contents = await _body(request, MAX_PHOTO_BYTES, f"{name} is")
        return JSONResponse({"key": await run_in_threadpool(studio.add, name, contents), "name": name})

    async def thumbnail(request: Request) -> Response:
        async with decoding:
            contents = await run_in_threadpool(studio.thumbnail, request.path_params["key"])
        return Response(contents, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    routes = [
        Route("/", index),
        Route("/explore", _answered(explore), methods=["POST"]),
        Route("/photos", _answered(add), methods=["POST"]),
        Route("/photos/{key}", _answered(thumbnail)),
    ]
    return Guard(Starlette(routes=routes), host)


def _answered(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """``endpoint`` whose errors become a line for the page; the server goes on."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            return JSONResponse({"error": str(refusal)}, refusal.status)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # a defect of ours, or no memory left: told in the terminal, and in the page
            note(traceback.format_exc())
            return JSONResponse({"error": f"{type(error).__name__}: {error} (more in the terminal)"}, 500)

    return answer


def _question(body: bytes) -> tuple[str, str | None, str | None]:
    """Photo, classes and background of a question; no words are None."""
    try:
        values: Any = json.loads(body)
        question = [values[name] for name in ("photo", "classes", "background")]
    except (ValueError, KeyError, TypeError, RecursionError):
        question = []
    if not question or not all(isinstance(value, str) for value in question):
        raise Refusal(400, 'expected JSON: {"photo": key, "classes": words, "background": words}')
    photo, classes, background = question
    return photo, classes.strip() or None, background.strip() or None


async def _body(request: Request, most: int, what: str) -> bytes:
    """The body of ``request``, never more of it than ``most`` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            size = f"{most // 2**20} MiB" if most >= 2**20 else f"{most // 2**10} KiB"
            raise Refusal(413, f"{what} too large: at most {size} are taken here")
    return bytes(body)


class Guard:
    """Refuses what does not come from the page of this server, and sets the security headers.

    Args:
        app: what is guarded.
        host: the address that it listens on. A loopback address is reached under the names of loopback only; any other
            under any numeric address too, and under this machine's name: a name that someone else could point here
            (DNS rebinding) is none of them.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.loopback_only = _is_loopback(host)
        names = {"localhost"}
        if not self.loopback_only:
            names |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or hand it on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        reason = self.refusal(Headers(scope=scope))
        app: ASGIApp = JSONResponse({"error": reason}, 403) if reason else self.app
        await app(scope, receive, send_with_headers)

    def refusal(self, headers: Headers) -> str | None:
        """Why a request with these headers is refused; None if it is not."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return f"this server is not called {host!r}"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin)[:2] != ("http", host):
            return f"requests of pages from {origin} are not answered"
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
