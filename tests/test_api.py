"""The HTTP API and the tools of MCP: the numbers of the search, within limits, and no path in any answer."""

import base64
import io
import os
import signal
import subprocess
import threading
from pathlib import Path

import av
import pytest
from hostile import HANGING, encoded, hanging
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from videos import write_video

pytest.importorskip("gradio")

from modeling_glccl import serving
from modeling_glccl.api import http_api
from modeling_glccl.app import build_app, launch, open_searcher
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.library import FAULT, Library, MomentRequest, RequestError, SearchRequest
from modeling_glccl.search import VideoIndex
from modeling_glccl.serving import Access

QUERY, OTHER = "a red ball bounces", "a blue square slides"


@pytest.fixture(scope="module")
def opened(tmp_path_factory, checkpoint):
    """An index of three videos, one of which has an id of its own, and a folder for what requests bring."""
    root = tmp_path_factory.mktemp("api")
    (root / "secret" / "more").mkdir(parents=True)
    index = VideoIndex.create(root / "index", *load_checkpoint(str(checkpoint)))
    for number, name in enumerate(("a.mp4", "b & c.mp4", "more/d.mp4")):
        write_video(root / "secret" / name, 20 + 10 * number, fps=10)
    index.update(root / "secret" / "more", progress=False)
    index.add([root / "secret" / "a.mp4"], progress=False)
    index.add({"holiday": root / "secret" / "b & c.mp4"}, progress=False)
    (root / "requests").mkdir()
    return index, root


@pytest.fixture
def library(opened):
    index, root = opened
    return Library(index, str(root / "requests"))


@pytest.fixture
def client(library, opened):
    """Speaks to the API behind the checks of the server; sees that no answer names a folder, and none stays."""
    _, root = opened
    app = Starlette(routes=[Mount("/api", http_api(library))], middleware=Access().middleware())
    client = TestClient(app, base_url="http://localhost/api/", raise_server_exceptions=False)
    client.event_hooks = {"response": [lambda answer: answer.read() and texts.append(answer.content)]}
    texts: list[bytes] = []
    yield client
    assert not [text for text in texts if b"secret" in text or str(root).encode() in text]
    assert list((root / "requests").iterdir()) == []


def error(answer, status: int) -> str:
    """The line that an answer is refused with."""
    assert answer.status_code == status
    assert list(answer.json()) == ["detail"]
    assert "\n" not in answer.json()["detail"]
    return answer.json()["detail"]


def test_a_search_gives_what_the_index_gives(client, opened):
    index, _ = opened
    expected = index.search(QUERY, 2, and_=[OTHER], not_=["a star"], moments=True, sort="path")
    given = {"query": QUERY, "k": 2, "and": [OTHER], "not": ["a star"], "sort": "path"}
    answer = client.post("search", json=given)
    found = answer.json()["results"]
    assert [row["name"] for row in found] == [Path(result.path).name for result in expected]
    for row, result in zip(found, expected, strict=True):
        assert row["score"] == pytest.approx(result.score, abs=1e-5)
        assert row["measure"] == "combined"
        assert row["moment"] == pytest.approx(result.moment._asdict())
        assert (row["video_id"] == result.video_id) == (result.video_id == "holiday")
    given |= {f"{name}_": given.pop(name) for name in ("and", "not")}
    assert client.post("search", json=given).json() == answer.json()


def test_the_filters_are_those_of_the_index(client, opened):
    def names(**given):
        return sorted(row["name"] for row in client.post("search", json={"query": QUERY, **given}).json()["results"])

    assert names(folder="more") == ["d.mp4"]
    assert names(folder="*b*") == ["b & c.mp4"]
    assert names(min_duration=2.5, max_duration=3.5) == ["b & c.mp4"]
    assert names(ids=["holiday"]) == ["b & c.mp4"]
    assert names(since="2020-01-01", until="2100-01-01T18:30") == ["a.mp4", "b & c.mp4", "d.mp4"]
    assert names(min_score=1e9) == []
    assert names(folder="nothing/../more") == ["d.mp4"]
    common = Path(os.path.commonpath([os.path.dirname(row["path"]) for row in opened[0].videos()]))
    for folder in ("secret", "../secret", f"../{common.name}", f"more/../../{common.name[:2]}*"):
        answer = client.post("search", json={"query": QUERY, "folder": folder})
        assert error(answer, 422) == "no video passes the filters"


def test_near_duplicates_come_in_groups(client, opened, monkeypatch):
    index, _ = opened
    for threshold in (0.8, 1):
        expected = index.duplicates(threshold)
        groups = client.get("duplicates", params={"threshold": threshold}).json()["groups"]
        found = [[(row["name"], row["score"], row["duration"]) for row in group] for group in groups]
        assert found == [[(Path(row.path).name, row.score, row.duration) for row in group] for group in expected]
    assert index.duplicates(0.8)
    assert error(client.get("duplicates", params={"threshold": 0.5}), 422).startswith("threshold: ")
    monkeypatch.setattr(serving, "MAX_COMPARED", 1)
    assert error(client.get("duplicates"), 422) == "More than 1 videos: use the command glccl duplicates."


def test_what_is_said_is_found_too(client, opened):
    index, root = opened
    assert error(client.post("search", json={"words": "hello"}), 422).startswith("the library: holds no words")
    subtitles = root / "secret" / "a.srt"
    subtitles.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello <b>world</b>\n")
    index.update(root / "secret", only={str(root / "secret" / "a.mp4")}, progress=False)
    for given in ({"words": "hello"}, {"query": "hello world"}):
        first = client.post("search", json=given).json()["results"][0]
        assert (first["name"], first["words"]["start"]) == ("a.mp4", 0)
    assert client.post("search", json={"query": "hello world", "no_words": True}).json()["results"][0]["words"] is None


def test_examples_come_as_base64_or_as_ids(client, opened):
    index, root = opened
    image = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(image, "PNG")
    (root / "red.png").write_bytes(image.getvalue())
    video = root / "secret" / "a.mp4"
    examples = {
        "image": (base64.b64encode(image.getvalue()).decode(), root / "red.png"),
        "video": (encoded(video)["base64"], video),
        "like": ("holiday@0-1", "holiday@0-1"),
    }
    for name, (sent, given) in examples.items():
        (row,) = client.post("search", json={name: sent, "k": 1}).json()["results"]
        (result,) = index.search_like(1, **{name: given})
        assert (row["name"], row["measure"]) == (Path(result.path).name, "similarity")
        assert row["score"] == pytest.approx(result.score, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"query": " "}, "query: String should have at least 1 character"),
        ({"query": "a" * 2001}, "query: String should have at most 2000 characters"),
        ({"query": QUERY, "and": ["a" * 2001]}, "and.0: String should have at most 2000 characters"),
        ({"query": QUERY, "not": ["a"] * 9}, "not: List should have at most 8 items"),
        ({"query": QUERY, "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"query": QUERY, "k": 101}, "k: Input should be less than or equal to 100"),
        ({"query": QUERY, "where": "true"}, "where: Extra inputs are not permitted"),
        ({"query": QUERY, "min_duration": -1}, "min_duration: Input should be greater than or equal to 0"),
        ({"query": QUERY, "sort": "size"}, "sort: Input should be 'score', 'date' or 'path'"),
        ({"query": QUERY, "min_confidence": 0.5}, "min_confidence: the model is not calibrated"),
        ({}, "query: say what happens in the video, or give an example"),
        ({"image": "???"}, "image: "),
        ({"image": "aGVsbG8="}, "image: is no image (BMP, GIF, JPEG, PNG, WEBP)"),
        ({"video": "aGVsbG8="}, "video: is not a video that FFmpeg can read"),
        ({"like": "holiday@50-60"}, "holiday@50-60: none of its 4 stored frames lies there"),
    ],
)
def test_what_is_wrong_is_said_with_its_field(client, given, line):
    assert error(client.post("search", json=given), 422).startswith(line)


def test_what_is_no_request_is_said_too(client, monkeypatch):
    cut = client.post("search", content=b"{", headers={"content-type": "application/json"})
    assert error(cut, 422) == "the request is not JSON"
    assert error(client.get("search"), 405)
    assert error(client.get("nothing"), 404)
    monkeypatch.setattr(serving, "MAX_API_BYTES", 50)
    answer = client.post("search", json={"query": "a" * 50})
    assert error(answer, 413) == "the request has 62 bytes; at most 50 are allowed"


@pytest.mark.parametrize("video_id", ["/etc/passwd", "nowhere"])
def test_what_the_library_lacks_is_not_found(client, library, opened, video_id):
    requests = [
        client.post("search", json={"like": video_id}),
        client.post("search", json={"query": QUERY, "ids": [video_id]}),
        client.get("moments", params={"video_id": video_id, "start": 0, "end": 1}),
    ]
    assert {error(answer, 404) for answer in requests} == {f"{video_id!r} is no video of this library"}
    with pytest.raises(RequestError, match="is no video of this library"):  # though it is the id in the index
        library.known(str(opened[1] / "secret" / "a.mp4"))


def test_the_list_has_pages(client):
    first, second = (client.get("videos", params={"k": 2, "offset": offset}).json() for offset in (0, 2))
    assert [row["name"] for row in first["videos"] + second["videos"]] == ["a.mp4", "b & c.mp4", "d.mp4"]
    assert (first["total"], second["total"]) == (3, 3)
    assert first["videos"][0]["duration"] == pytest.approx(2, abs=0.01)
    assert [row["name"] for row in client.get("videos", params={"folder": "more"}).json()["videos"]] == ["d.mp4"]
    assert error(client.get("videos", params={"k": "x"}), 422).startswith("k: ")


@pytest.mark.parametrize("exact", [False, True])
def test_a_moment_is_a_file_that_plays(client, exact):
    (row,) = client.post("search", json={"query": QUERY, "k": 1}).json()["results"]
    address = row["moment_url"].removeprefix("api/") + ("&exact=true" if exact else "")
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''")
    with av.open(io.BytesIO(answer.content)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    wanted = 10 * (row["moment"]["end"] - row["moment"]["start"])
    assert abs(frames - wanted) <= 1 if exact else frames >= wanted - 1


@pytest.mark.parametrize(
    ("span", "line"),
    [
        ({"start": 2, "end": 1}, "the request: end must lie after start, by at most 600 s"),
        ({"start": 0, "end": 601}, "the request: end must lie after start, by at most 600 s"),
        ({"start": "nan", "end": 1}, "start: Input should be a finite number"),
        ({"end": 1}, "start: Field required"),
        ({"start": 50, "end": 60, "exact": True}, "b & c.mp4: no frame between start=50.0 and end=60.0 seconds"),
    ],
)
def test_a_span_that_cannot_be_cut_is_said(client, span, line):
    assert error(client.get("moments", params={"video_id": "holiday", **span}), 422) == line or "Input" in line


def test_a_cut_that_hangs_is_ended(library, opened, monkeypatch):
    monkeypatch.setattr(serving, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr("modeling_glccl.library._CUT", "while True: pass")
    started, run = [], subprocess.Popen.__init__
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda self, *a, **k: started.append(self) or run(self, *a, **k))
    with pytest.raises(RequestError, match=r"b & c_0.0-1.0.mp4: could not be cut in the time allowed") as caught:
        library.moments(MomentRequest(video_id="holiday", start=0, end=1))
    assert caught.value.status == 503
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    assert list((opened[1] / "requests").iterdir()) == []


def test_an_example_that_hangs_its_decoder_is_ended(client, monkeypatch):
    started = hanging(monkeypatch)
    monkeypatch.setattr(serving, "TIMEOUT_SECONDS", 1)
    answer = client.post("search", json={"video": base64.b64encode(HANGING).decode()})
    assert error(answer, 422) == "video: could not be decoded in the time allowed"
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_fault_of_the_server_is_told_to_its_log_alone(client, library, opened, monkeypatch, caplog):
    for problem in (ValueError(f"{opened[1]}/index: damaged"), OSError("disk"), RuntimeError("a secret")):
        monkeypatch.setattr(library.index, "search_features", lambda *_, _problem=problem, **__: raise_(_problem))
        assert error(client.post("search", json={"query": QUERY}), 500) == FAULT
    assert "index: damaged" in caplog.text


def raise_(problem):
    raise problem


def test_a_full_queue_and_a_long_wait_are_said(client, opened, monkeypatch):
    index, root = opened
    monkeypatch.setattr(serving, "MAX_WAITING", 1)
    library = Library(index, str(root / "requests"))
    asked = TestClient(http_api(library), base_url="http://localhost/", raise_server_exceptions=False)
    started, wait = threading.Event(), threading.Event()

    def search(*_, **__):
        started.set()
        wait.wait(60)
        return [[]]

    monkeypatch.setattr(index, "search_features", search)
    request = SearchRequest(query=QUERY)
    first = threading.Thread(target=library.find, args=[request])
    first.start()
    started.wait(60)
    try:
        with pytest.raises(RequestError, match="1 such requests wait already") as full:
            library.find(request)
        answer = asked.post("search", json={"query": QUERY})
        assert error(answer, 429) == "1 such requests wait already: try again later"
        assert answer.headers["Retry-After"] == "60"
        library._places["search"].release()
        monkeypatch.setattr(serving, "TIMEOUT_SECONDS", 0.1)
        with pytest.raises(RequestError, match=r"it was not its turn within 0\.1 s") as late:
            library.find(request)
        library._places["search"].acquire()
    finally:
        wait.set()
        first.join()
    assert (full.value.status, late.value.status) == (429, 503)
    assert library.find(request) == []  # the turn was given back


def test_health_and_metrics(client, library, monkeypatch):
    assert client.get("health").json() == {"status": "ok", "videos": 3}
    client.post("search", json={"query": QUERY})
    client.post("search", json={"query": QUERY, "folder": "nowhere"})
    client.get("videos")
    lines = client.get("metrics").text.splitlines()
    assert 'glccl_requests_total{operation="search",outcome="answered"} 1' in lines
    assert 'glccl_requests_total{operation="search",outcome="refused"} 1' in lines
    assert 'glccl_requests_total{operation="videos",outcome="answered"} 1' in lines
    (seconds,) = (
        float(line.split()[1]) for line in lines if line.startswith('glccl_request_seconds_total{operation="s')
    )
    assert 0 < seconds < 60
    monkeypatch.setattr(VideoIndex, "__len__", lambda _: raise_(ValueError("gone")))
    assert error(client.get("health"), 503) == "the index cannot be read; the server's log says more"


def test_the_page_of_the_api_needs_nothing_else(client):
    page = client.get("docs").text
    for text in ("POST /api/search", "GET /api/videos", "GET /api/moments", "GET /api/health", "GET /api/metrics"):
        assert text in page
    assert "<td>min_duration<td>number<td>seconds of the video" in page
    assert "http:" not in page.replace("http://localhost", "")
    assert "https:" not in page
    described = client.get("openapi.json").json()
    schemas = described["components"]["schemas"]
    assert schemas["Problem"]["properties"]["detail"]["type"] == "string"
    for method in (method for path in described["paths"].values() for method in path.values()):
        assert set(method["responses"]) == {"200", "4XX", "5XX"}  # errors are as they really come
    assert {"query", "k", "and", "not", "like", "folder"} < set(schemas["SearchRequest"]["properties"])


@pytest.fixture(scope="module")
def served(opened, checkpoint):
    """The whole server, with MCP, behind a token."""
    _, root = opened
    page = build_app(*open_searcher(checkpoint=str(checkpoint), videos=root / "secret"))
    _, url, _ = launch(page, Access(token="token"), mcp=True, wait=False)
    yield url
    page.close()


def test_the_api_of_a_running_server_asks_for_the_token(served):
    import httpx

    for path in ("api/health", "api/docs", "api/metrics", "mcp"):
        answer = httpx.get(f"{served}{path}")
        assert error(answer, 401) == "This page needs a token (as the password, with any name) or a user."
        assert httpx.get(f"{served}{path}", headers={"Host": "evil.example"}).status_code == 400
    known = httpx.Client(base_url=served, headers={"Authorization": "Bearer token"}, timeout=60)
    assert known.get("api/health").json()["videos"] == 3
    (row,) = known.post("api/search", json={"query": QUERY, "k": 1}).json()["results"]
    assert known.get(row["url"].partition("#")[0]).headers["content-type"] == "video/mp4"
    assert known.get(row["moment_url"]).status_code == 200


def test_a_client_of_mcp_searches_and_cuts(served, opened):
    anyio = pytest.importorskip("anyio")
    pytest.importorskip("mcp")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        headers = {"Authorization": "Bearer token"}
        async with (
            streamablehttp_client(f"{served}mcp", headers=headers) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            found = await session.call_tool("search", {"query": QUERY, "k": 2})
            first = found.structuredContent["results"][0]
            span = {"video_id": first["video_id"], "start": 0, "end": 1, "exact": True}
            answers = [
                await session.call_tool("videos", {"folder": "more"}),
                await session.call_tool("moments", span),
                await session.call_tool("search", {"query": 5}),
                await session.call_tool("moments", span | {"video_id": "/etc/passwd"}),
                await session.call_tool("delete", {}),
            ]
            return tools, found, answers

    tools, found, (videos, moment, wrong, path, unknown) = anyio.run(talk)
    assert set(tools) == {"search", "videos", "duplicates", "moments"}
    assert "query" in tools["search"].inputSchema["properties"]
    index, root = opened
    expected = index.search(QUERY, 2)
    assert [row["name"] for row in found.structuredContent["results"]] == [Path(row.path).name for row in expected]
    assert [row["name"] for row in videos.structuredContent["videos"]] == ["d.mp4"]
    with av.open(io.BytesIO(base64.b64decode(moment.content[0].resource.blob))) as container:
        assert 9 <= sum(1 for _ in container.decode(video=0)) <= 11
    assert [answer.isError for answer in (wrong, path, unknown)] == [True] * 3
    assert wrong.content[0].text == "query: Input should be a valid string"
    assert path.content[0].text == "'/etc/passwd' is no video of this library"
    assert str(root) not in str([found, videos, moment, wrong, path, unknown])
