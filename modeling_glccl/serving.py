"""What strangers may send to the page, or to an API beside it, and who is let in."""

import base64
import binascii
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_VIDEOS = 16  # of a visitor
MAX_VIDEO_BYTES = 200_000_000
MAX_VIDEO_SECONDS = 600.0
MAX_IMAGE_PIXELS = 25_000_000  # of an example
MAX_BODY_BYTES = 1_000_000  # of a request that brings no video
MAX_API_BYTES = 8_000_000  # of one to the API, which may bring an example
MAX_SENTENCES = 8  # that shall hold, too, and as many that shall not
MAX_RESULTS = 100
MAX_COMPARED = 20_000  # videos among which near-duplicates are looked for: the time grows with the square
LEAST_ALIKE = 0.8  # of near-duplicates: below it the pairs to be compared are all
TIMEOUT_SECONDS = 60.0  # to decode what one request brings
MAX_WAITING = 32  # requests


@dataclass
class Access(AuthenticationBackend):
    """Who is let in. Raises ValueError for a host that others can reach with neither token nor user, nor `public`."""

    host: str = "127.0.0.1"  # the address to listen at
    # Names, beside `host` and those of this machine itself, under which the server may be called. Others are refused:
    # a page elsewhere could have its own name lead here.
    allowed_hosts: Sequence[str] = ()
    # What visitors must present, as `Authorization: Bearer TOKEN`, or as the password that a browser asks.
    token: str | None = None
    user: str | None = None  # NAME:PASSWORD that visitors may present instead
    public: bool = False  # whether anyone may come in who can reach `host`

    def __post_init__(self):
        if self.user and not all(self.user.partition(":")):
            raise ValueError("the user must have the form NAME:PASSWORD")
        for name in self.allowed_hosts:
            rest = name.removeprefix("*.")
            if name != "*" and ({"/", "*"} & set(rest) or rest.count(":") == 1):
                raise ValueError(
                    f"allowed host {name}: pass a name alone, such as videos.example.org, or *.example.org"
                )
        try:
            loopback = ip_address(self.host).is_loopback
        except ValueError:
            loopback = self.host == "localhost"
        if not (loopback or self.token or self.user or self.public):
            raise ValueError(
                f"whoever can reach {self.host} could search and watch the videos: pass a token (--token, or the "
                "variable GLCCL_TOKEN), a user (--user, or GLCCL_USER), or --public to let everybody in"
            )

    def middleware(self) -> list[Middleware]:
        """For Starlette, FastAPI or Gradio: checks every request before anything else sees it."""
        names = ["localhost", "127.0.0.1", "::1", self.host, *self.allowed_hosts]
        hosts = [f"[{name}]" if ":" in name else name for name in names]
        checks = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)]
        if self.token or self.user:
            checks.append(Middleware(AuthenticationMiddleware, backend=self, on_error=_ask))
        return [*checks, Middleware(_limit_bodies)]

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        """Raises AuthenticationError for whoever presents neither token nor user."""
        scheme, _, given = conn.headers.get("authorization", "").partition(" ")
        user = password = b""
        if scheme.lower() == "bearer":
            password = given.encode("latin-1")
        elif scheme.lower() == "basic":
            with suppress(binascii.Error, ValueError):
                user = base64.b64decode(given)
            password = user.partition(b":")[2]
        wanted = (password, self.token), (user, self.user)
        # All are compared, and in a time that does not tell how much of a secret was right.
        known = any([secrets.compare_digest(a, b.encode()) for a, b in wanted if b])
        if not known and conn.scope["path"] != "/gradio_api/startup-events":  # which Gradio calls when it starts
            raise AuthenticationError
        return AuthCredentials(), SimpleUser(user.partition(b":")[0].decode(errors="replace"))


def _refuse(path: str, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """For programs as the API says all its errors, otherwise as text."""
    if path.startswith(("/api/", "/mcp")):
        return JSONResponse({"detail": message}, status, headers)
    return PlainTextResponse(message, status, headers)


def _ask(conn: HTTPConnection, _: Exception) -> Response:
    header = {"WWW-Authenticate": 'Basic realm="video search", charset="UTF-8"'}
    message = "This page needs a token (as the password, with any name) or a user."
    return _refuse(conn.scope["path"], 401, message, header)


def _limit_bodies(app: ASGIApp) -> ASGIApp:
    """Refuses larger requests than uploads, than those of the API, or than queries may be."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        path, limit = scope.get("path", ""), MAX_BODY_BYTES
        if path.rstrip("/").endswith("/upload"):
            limit = MAX_VIDEOS * MAX_VIDEO_BYTES
        elif path.startswith(("/api/", "/mcp")):
            limit = MAX_API_BYTES
        length = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        if length.isdecimal() and int(length) > limit:
            refusal = _refuse(path, 413, f"the request has {int(length):,} bytes; at most {limit:,} are allowed")
            return await refusal(scope, receive, send)
        return await RequestBodyLimitMiddleware(app, limit)(scope, receive, send)

    return limited
