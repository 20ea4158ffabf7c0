"""Who is let in, and what may be sent: on a small server, and on the page as it is launched."""

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from videos import write_video

httpx = pytest.importorskip("httpx")
pytest.importorskip("gradio")

from modeling_glccl import serving  # noqa: E402
from modeling_glccl.app import build_app, launch, open_searcher  # noqa: E402
from modeling_glccl.cli import main  # noqa: E402
from modeling_glccl.serving import Access  # noqa: E402

QUERY = "a red ball bounces"


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def client(access: Access, host: str = "localhost") -> TestClient:
    routes = [Route("/", _echo, methods=["GET", "POST"]), Route("/upload", _echo, methods=["POST"])]
    return TestClient(Starlette(routes=routes, middleware=access.middleware()), base_url=f"http://{host}")


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:7860", 200),
        ("127.0.0.1", 200),
        ("[::1]:7860", 200),
        ("videos.lan", 200),
        ("a.example.org", 200),
        ("10.0.0.7", 200),
        ("localhost.evil.example", 400),
        ("", 400),
    ],
)
def test_a_server_answers_to_its_own_names_alone(host, status):
    access = Access("10.0.0.7", ["videos.lan", "*.example.org"], public=True)
    assert client(access).get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "videos.lan"])
def test_beyond_this_machine_something_must_be_asked_for(host):
    with pytest.raises(ValueError, match=f"whoever can reach {re.escape(host)} .* GLCCL_TOKEN"):
        Access(host, token="", user=None)
    for options in ({"token": "t"}, {"user": "me:p"}, {"public": True}):
        Access(host, **options)
    for loopback in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert client(Access(loopback)).get("/").status_code == 200


@pytest.mark.parametrize("name", ["http://a.lan", "a.lan:80", "*a.lan", "a.*.lan"])
def test_an_allowed_host_is_a_name_and_a_user_has_a_password(name):
    with pytest.raises(ValueError, match="pass a name alone"):
        Access(allowed_hosts=[name])
    assert client(Access(allowed_hosts=["*"])).get("/", headers={"Host": "any.lan"}).status_code == 200
    for user in ("me", ":p", "me:"):
        with pytest.raises(ValueError, match="NAME:PASSWORD"):
            Access(user=user)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer sécret".encode()}, 200),
        ({"Authorization": "Bearer secret"}, 401),
        ({"Authorization": "Bearer "}, 401),
        (basic("anybody:sécret"), 200),
        (basic("me:pass:word"), 200),
        (basic("me:pass"), 401),
        (basic("me:"), 401),
        (basic("you:pass:word"), 401),
        ({"Authorization": "Bearer me:pass:word"}, 401),
        ({"Authorization": "Basic ???"}, 401),
        ({"Authorization": "Digest sécret".encode()}, 401),
    ],
)
def test_only_the_token_or_the_user_opens(headers, status):
    answer = client(Access(token="sécret", user="me:pass:word")).get("/", headers=headers)
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)  # what makes a browser ask


def test_a_large_request_is_refused_unless_it_brings_videos(monkeypatch):
    monkeypatch.setattr(serving, "MAX_BODY_BYTES", 10)
    monkeypatch.setattr(serving, "MAX_VIDEO_BYTES", 20)
    monkeypatch.setattr(serving, "MAX_VIDEOS", 2)
    server = client(Access())
    sizes = {("/", 10): 200, ("/", 11): 413, ("/upload", 40): 200, ("/upload", 41): 413}
    assert {(path, size): server.post(path, content=b"x" * size).status_code for path, size in sizes} == sizes


def test_the_command_refuses_an_open_host_before_it_loads_anything(capsys, monkeypatch):
    monkeypatch.delenv("GLCCL_TOKEN", raising=False)
    monkeypatch.delenv("GLCCL_USER", raising=False)
    assert main(["serve", "nowhere", "--videos", "nowhere", "--host", "0.0.0.0"]) == 1
    assert "--public to let everybody in" in capsys.readouterr().err
    monkeypatch.setenv("GLCCL_TOKEN", "secret")
    assert main(["serve", "nowhere", "--videos", "nowhere", "--host", "0.0.0.0"]) == 1
    assert "nowhere" in capsys.readouterr().err


def asked(query: str) -> list:
    """What the page sends for a search: no example, what was uploaded, and what its fields hold."""
    return [None, None, query, "", "", "", None, None, "", "", 0]


class Visitor:
    """Speaks Gradio's protocol."""

    def __init__(self, url: str, blocks):
        self.http = httpx.Client(base_url=url, headers={"Authorization": "Bearer secret"}, timeout=60)
        self.functions = {function.name: number for number, function in blocks.fns.items()}

    def join(self, function: str, data: list, session: str):
        body = {"data": data, "fn_index": self.functions[function], "session_hash": session}
        return self.http.post("/gradio_api/queue/join", json=body)

    def call(self, function: str, data: list, session: str = "mine") -> dict:
        assert self.join(function, data, session).status_code == 200
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
            return next(
                json.loads(line.removeprefix("data:"))["output"]
                for line in lines.iter_lines()
                if "process_completed" in line
            )


@pytest.fixture(scope="module")
def page(tmp_path_factory, checkpoint):
    root = tmp_path_factory.mktemp("page")
    (root / "library").mkdir()
    write_video(root / "library" / "a.mp4", 20, fps=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(root / "uploads"))
        blocks = build_app(*open_searcher(checkpoint=str(checkpoint), videos=root / "library"))
        _, url, _ = launch(blocks, Access(token="secret"), wait=False)
        yield Visitor(url, blocks), blocks, root
        blocks.close()


@pytest.mark.slow
def test_a_server_says_where_it_is_and_ends_without_a_word_of_its_library(page, checkpoint):
    command = [sys.executable, "-m", "modeling_glccl.cli", "serve", checkpoint, "--videos", page[-1] / "library"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout
        said = server.stdout.readline()
        server.send_signal(signal.SIGINT)
        rest, errors = server.communicate()
    assert re.fullmatch(r"open http://127\.0\.0\.1:\d+/ in a browser; Ctrl-C ends it\n", said), errors
    assert (server.returncode, rest) == (130, "")
    assert errors.splitlines() == ["computing on cpu in fp32", "glccl serve: interrupted"]


def test_nothing_of_the_page_is_seen_without_the_token(page):
    visitor, *_ = page
    for path in ("/", "/config", "/gradio_api/info", "/assets/x.js", "/videos/x", "/gradio_api/heartbeat/x"):
        assert httpx.get(f"{visitor.http.base_url}{path.lstrip('/')}").status_code == 401
        assert visitor.http.get(path, headers={"Host": "evil.example"}).status_code == 400
    assert visitor.http.get("/").status_code == 200


def test_answers_do_not_tell_where_videos_lie_and_videos_play(page):
    visitor, _, root = page
    message, results = visitor.call("search", asked(QUERY))["data"][:2]
    assert message == ""
    assert str(root) not in results
    source = re.search(r'src="(videos/[0-9a-f]+)#', results)[1]
    part = visitor.http.get(f"/{source}", headers={"Range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, (root / "library" / "a.mp4").read_bytes()[:10])
    assert visitor.http.get("/videos/0").status_code == 404
    assert visitor.http.get(f"/gradio_api/file={root}/library/a.mp4").status_code == 403


def test_a_file_is_uploaded_searched_and_deleted_with_its_session(page):
    visitor, blocks, root = page
    mine = write_video(root / "mine.mp4", 30, fps=10)
    (path,) = visitor.http.post("/gradio_api/upload", files={"files": mine.open("rb")}).json()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    assert visitor.call("add", [[file], None], "another")["data"][0] == "mine.mp4 is searched now."
    assert "mine.mp4" in visitor.call("search", asked(QUERY), "another")["data"][1]
    assert "mine.mp4" not in visitor.call("search", asked(QUERY))["data"][1]
    assert [found.name for found in (root / "uploads").rglob("*.*")] == ["mine.mp4"]
    blocks.app.state_holder.delete_state("another")
    assert [found for found in (root / "uploads").rglob("*") if found.is_file()] == []


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/x.mp4", "https://example.org/x.mp4", "/etc/passwd"])
def test_what_was_not_sent_is_neither_fetched_nor_read(page, path, monkeypatch):
    visitor, *_ = page
    looked_up, look_up = [], socket.getaddrinfo
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: looked_up.append(a[:2]) or look_up(*a, **k))
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for answer in (visitor.call("add", [[file], None], "third"), visitor.call("search", [file, *asked("")[1:]])):
        assert answer["error"] in (None, "Send the file itself: nothing is fetched.")
    assert visitor.http.get(f"/gradio_api/file={path}").status_code in (403, 404)
    assert set(looked_up) <= {("127.0.0.1", visitor.http.base_url.port)}  # the page itself


def test_a_full_queue_is_said(page, monkeypatch):
    visitor, blocks, _ = page
    assert blocks._queue.max_size == serving.MAX_WAITING
    monkeypatch.setattr(blocks._queue, "max_size", 2)
    wait = threading.Event()
    (search,) = {number for number, function in blocks.fns.items() if number == visitor.functions["search"]}
    monkeypatch.setattr(blocks.fns[search], "fn", lambda *values: wait.wait(60) and ("", "", None, None, None))
    try:
        answers = [visitor.join("search", asked(QUERY), f"visitor {i}") for i in range(6)]
    finally:
        wait.set()
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 503
    assert "Queue is full" in answers[-1].json()["detail"]
