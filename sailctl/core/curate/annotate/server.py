"""The server of the page: bound to this machine, one secret address an annotator, nothing fetched from elsewhere.

A first visit brings the token in the address and leaves it in a cookie of that annotator's path; programs may send it
as `Authorization: Bearer`. The Host header must name this machine, so that no name of somebody else's that resolves
to it (DNS rebinding) gets in, and what changes something must come from the page itself.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
from collections.abc import Callable, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from sailctl.core.curate.annotate.desk import Desk, Refused
from sailctl.core.curate.annotate.pictures import Pictures
from sailctl.core.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
COOKIE = "annotate"
LARGEST_ANSWER = 4096  # bytes
LOCAL_NAMES = {"127.0.0.1", "localhost", "::1"}
PAGE_FILES = {"": ("index.html", "text/html"), "page.js": ("page.js", "text/javascript"),
              "page.css": ("page.css", "text/css")}  # fmt: skip
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOT_YOURS = "This address is none of those that sailctl curate annotate printed when it was started: open one of them."


class Site:
    """What is served: desks by annotator, each with a token of its own, their pictures and the words of the page."""

    def __init__(
        self, desks: Mapping[str, Desk], pictures: Pictures, lang: str, agreement: Callable[[], dict[str, Any]]
    ) -> None:
        self.desks, self.pictures, self.agreement = desks, pictures, agreement
        self.words = words(lang)
        self.lang = lang
        self.tokens = {name: secrets.token_urlsafe(24) for name in desks}

    def address(self, annotator: str, port: int) -> str:
        """Where an annotator begins."""
        return f"http://{HOST}:{port}/{quote(annotator, safe='')}/?token={self.tokens[annotator]}"

    def app(self) -> Any:
        """The ASGI application. Raises MissingExtra without Starlette."""
        try:
            from starlette.applications import Starlette
            from starlette.routing import Route
        except ImportError as error:
            raise MissingExtra("starlette", "annotate") from error

        return Starlette(routes=[Route("/{rest:path}", self._answer, methods=["GET", "POST"])])

    async def _answer(self, request: Request) -> Response:
        """Every request: who asks, may they, and what for."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import PlainTextResponse

        refusal = self._refusal(request)
        if refusal is not None:
            response: Response = PlainTextResponse(refusal[1], refusal[0])
        else:
            name, _, what = request.path_params["rest"].partition("/")
            body = b""
            if request.method == "POST":
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        break
            response = await run_in_threadpool(self._served, request, self.desks[name], what, body)
        response.headers.update(HEADERS)
        return response

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Status and reason where a request is not to be answered."""
        host = request.headers.get("host", "")
        if _hostname(host) not in LOCAL_NAMES:
            return 421, "This server answers under 127.0.0.1 or localhost only."
        name = request.path_params["rest"].partition("/")[0]
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = [request.query_params.get("token", ""), request.cookies.get(COOKIE, "")]
        given += [bearer] if scheme.lower() == "bearer" else []
        token = self.tokens.get(name, "")
        # Compared in constant time, and against something even where nobody is called so.
        if not any([hmac.compare_digest(one.encode(), (token or COOKIE * 9).encode()) for one in given]) or not token:
            return 403, NOT_YOURS
        if request.method == "POST":
            origin = request.headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != host:
                return 403, "Answers are taken from the page itself only."
            if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return 415, "Answers are sent as application/json."
        return None

    def _served(self, request: Request, desk: Desk, what: str, body: bytes) -> Response:
        """The answer to a request that may be made; in a thread, for it reads and writes files."""
        from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse
        from starlette.responses import Response as Bytes

        try:
            if request.method == "POST":
                return JSONResponse(_noted(desk, body) if what == "answer" else {"error": "no such thing"})
            if what == "" and "token" in request.query_params:
                path = f"/{quote(desk.annotator, safe='')}/"
                moved = RedirectResponse(path, 303)
                token = self.tokens[desk.annotator]
                moved.set_cookie(COOKIE, token, path=path, httponly=True, samesite="lax")
                return moved
            if what in PAGE_FILES:
                name, kind = PAGE_FILES[what]
                body = _page_file(name)
                return Bytes(body.replace(b"LANG", self.lang.encode(), 1) if not what else body, media_type=kind)
            if what == "state":
                return JSONResponse({**desk.state(), "words": self.words})
            if what == "agreement":
                return JSONResponse(self.agreement())
            kind, _, which = what.partition("/")
            place, _, number = which.partition("/")
            if kind == "item":
                item = desk.at(_whole(place))
                return JSONResponse(desk.item(_whole(place), self.pictures.of(item.number)))
            if kind == "picture":
                found = self.pictures.of(desk.at(_whole(place)).number)
                if not 0 <= _whole(number) < len(found) or found[_whole(number)].problem:
                    raise Refused("there is no such picture")
                return Bytes(found[_whole(number)].data, media_type=found[_whole(number)].kind)
        except Refused as error:
            return JSONResponse({"error": str(error)}, 400)
        except OSError as error:
            return JSONResponse({"error": f"the disk refuses: {error.strerror or error}"}, 507)
        return PlainTextResponse("There is nothing here.", 404)


def _noted(desk: Desk, body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body) if len(body) <= LARGEST_ANSWER else None
    except ValueError:
        said = None
    if not isinstance(said, dict) or said.keys() != {"place", "field", "value"}:
        raise Refused("an answer is a JSON object with place, field and value")
    return desk.answer(said["place"], said["field"], said["value"])


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _page_file(name: str) -> bytes:
    return resources.files("sailctl.core.curate.annotate").joinpath("page", name).read_bytes()


def words(lang: str) -> dict[str, Any]:
    """The words of the page in a language. Raises UsageError where it has none."""
    if lang not in ("en", "zh"):
        raise UsageError(f"--lang {lang}: the page speaks en or zh")
    return dict(json.loads(_page_file(f"words.{lang}.json")))


def listen(port: int) -> socket.socket:
    """A socket bound to a port of this machine alone; 0 takes any. Raises UsageError where it is taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server just killed leaves its port waiting
    try:
        listening.bind((HOST, port))
        listening.listen(64)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--port {port}: {reason}; give another one, or 0 for any that is free") from error
    return listening


def make_server(site: Site) -> Any:
    """A uvicorn server that says nothing, for its log would hold the tokens. Raises MissingExtra without it."""
    app = site.app()
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "annotate") from error

    settings: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "lifespan": "off"}
    return uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=3, ws="none", proxy_headers=False, **settings))
