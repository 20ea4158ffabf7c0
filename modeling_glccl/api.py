"""The HTTP API of a server, and the same as tools of MCP."""

import base64
import html
import json
import logging
import mimetypes
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Annotated, Any, cast
from urllib.parse import quote

from anyio import to_thread
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import AnyUrl, BaseModel, ValidationError
from starlette.routing import Route

from . import serving
from .library import (
    FAULT,
    DuplicatesRequest,
    Library,
    ListRequest,
    MomentRequest,
    RequestError,
    SearchRequest,
    explain,
)
from .packaged import install_line

_NULL = {"type": "null"}
_DOCS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
h2 {{ font: 600 1.1rem monospace; margin-top: 2rem }}
table {{ border-collapse: collapse; width: 100% }}
td {{ border-top: 1px solid #8884; padding: .3rem 1rem .3rem 0; vertical-align: top; overflow-wrap: anywhere }}
td:first-child {{ font-family: monospace }}
</style></head><body><h1>{title}</h1>
<p>Machines read <a href="openapi.json">openapi.json</a>. Errors are JSON, <code>{{"detail": "one line"}}</code>.
With a token: <code>Authorization: Bearer TOKEN</code>. Addresses in answers are relative to the server.</p>
<pre>curl -H "Content-Type: application/json" -d '{{"query": "a dog in the snow", "k": 3}}' ADDRESS/api/search</pre>
{parts}</body></html>
"""


class Problem(BaseModel):
    """An error of the HTTP API."""

    detail: str


def http_api(library: Library) -> FastAPI:
    """The HTTP API, to be mounted below /api; every error is `{"detail": LINE}`."""
    about = "Video search with GLCCL. Errors are an object whose `detail` is one line."
    problem: dict[str, Any] = {"description": "what is wrong, in one line", "model": Problem}
    errors: dict[int | str, dict[str, Any]] = {"4XX": problem, "5XX": problem}
    api = FastAPI(title="Video search", description=about, docs_url=None, redoc_url=None, responses=errors)

    api.post("/search")(library.search)
    api.get("/videos")(library.videos)
    api.get("/duplicates")(library.duplicates)

    @api.get("/moments", response_class=StreamingResponse)
    def moments(request: Annotated[MomentRequest, Query()]) -> StreamingResponse:
        """Cuts a moment out of a video; answers with the file."""
        name, file = library.moments(request)
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}",
            "Content-Length": str(os.fstat(file.fileno()).st_size),
        }
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return StreamingResponse(iter(partial(file.read, 1 << 20), b""), headers=headers, media_type=media_type)

    @api.get("/health")
    def health() -> dict[str, Any]:
        """Whether the library can be read, and how many videos it has."""
        try:
            return {"status": "ok", "videos": len(library.index)}
        except (ValueError, OSError) as error:
            logging.exception("the index cannot be read")
            raise RequestError("the index cannot be read; the server's log says more", 503) from error

    api.get("/metrics", response_class=PlainTextResponse)(library.metrics)

    @api.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(_docs(api.openapi()))

    @api.exception_handler(RequestError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        status = getattr(error, "status", 422)
        # By then nobody who waits now does.
        headers = {"Retry-After": f"{serving.TIMEOUT_SECONDS:.0f}"} if status == 429 else None
        return JSONResponse({"detail": str(error)}, status, headers)

    @api.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": explain(cast(RequestValidationError, error).errors(), within=1)}, 422)

    @api.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"detail": FAULT}, 500)

    return api


def _docs(openapi: dict[str, Any]) -> str:
    """A page of the API that needs no other file, unlike FastAPI's, which loads scripts from elsewhere."""
    parts = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            rows = operation.get("parameters", [])
            if body := operation.get("requestBody"):
                name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                schema = openapi["components"]["schemas"][name]
                rows = [{"name": name, "schema": field} for name, field in schema["properties"].items()]
            parts.append(f"<h2>{method.upper()} /api{path}</h2><p>{html.escape(operation['description'])}</p><table>")
            for row in rows:
                field = row["schema"]
                kinds = field.get("anyOf", [field])
                kind = " or ".join(kind.get("format") or kind.get("type", "") for kind in kinds if kind != _NULL)
                default = f", default {json.dumps(field['default'])}" if field.get("default") is not None else ""
                texts = row["name"], f"{kind}{default}", field.get("description", "")
                parts.append("<tr>" + "".join(f"<td>{html.escape(text)}" for text in texts))
            parts.append("</table>")
    return _DOCS.format(title=html.escape(openapi["info"]["title"]), parts="\n".join(parts))


def mcp_server(library: Library) -> tuple[Route, Callable[[Any], AbstractAsyncContextManager[None]]]:
    """The same as tools of the Model Context Protocol, at /mcp: the route, and what runs beside the server."""
    try:
        from mcp import types
        from mcp.server.fastmcp.server import StreamableHTTPASGIApp
        from mcp.server.lowlevel import Server
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    except ImportError as error:
        raise ImportError(f"MCP needs its library: {install_line('mcp')} ({error})") from error
    operations: dict[str, tuple[type[BaseModel], Callable[[Any], Any]]] = {
        "search": (SearchRequest, library.search),
        "videos": (ListRequest, library.videos),
        "duplicates": (DuplicatesRequest, library.duplicates),
        "moments": (MomentRequest, library.moments),
    }
    server = Server("glccl")
    manager = StreamableHTTPSessionManager(server, json_response=True, stateless=True)

    @server.list_tools()
    async def tools() -> list[types.Tool]:
        return [
            types.Tool(name=name, description=function.__doc__, inputSchema=model.model_json_schema())
            for name, (model, function) in operations.items()
        ]

    @server.call_tool(validate_input=False)
    async def call(name: str, arguments: dict[str, Any]) -> Any:
        try:
            if name not in operations:
                raise RequestError(f"there is no tool {name!r}")
            model, function = operations[name]
            answer = await to_thread.run_sync(function, model.model_validate(arguments))
        except ValidationError as error:
            raise RequestError(explain(error.errors())) from None
        except RequestError:
            raise
        except Exception as error:
            logging.exception("%s failed", name)
            raise RequestError(FAULT, 500) from error
        if isinstance(answer, BaseModel):
            return answer.model_dump(mode="json")
        title, file = answer
        with file:
            content = types.BlobResourceContents(
                uri=AnyUrl(f"file:///{quote(title)}"),
                mimeType=mimetypes.guess_type(title)[0],
                blob=base64.b64encode(file.read()).decode(),
            )
        return [types.EmbeddedResource(type="resource", resource=content)]

    return Route("/mcp", StreamableHTTPASGIApp(manager)), lambda _: manager.run()
