"""The Space in a real browser, offline: type, watch, add a video, meet an unreadable file."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from checkpoints import save_tiny_checkpoint
from paths import REPOSITORY
from videos import write_video

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")

SPACE = REPOSITORY / "hub" / "space" / "app.py"
CHROMIUM = shutil.which("chromium")
OPENING, EXAMPLE = "a red ball bounces", "a red square bounces"
QUERY = "a blue square slides"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium in the path: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The Space, started as its own process on a tiny checkpoint and three videos."""
    root = tmp_path_factory.mktemp("space")
    save_tiny_checkpoint(root / "checkpoint", [OPENING, QUERY])
    videos = root / "videos"
    videos.mkdir()
    for name, frames in (("one.mp4", 40), ("two.mp4", 50), ("three & four.mp4", 60)):
        write_video(videos / name, frames, fps=10)
    (videos / "examples.txt").write_text(f"{OPENING}\n{EXAMPLE}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "GLCCL_CHECKPOINT": str(root / "checkpoint"),
        "GLCCL_VIDEOS": str(videos),
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(root / "cache"),
        "GRADIO_TEMP_DIR": str(root / "uploads"),
        "GLCCL_TOKEN": "secret",
    }
    with (root / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, str(SPACE)], cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        url = f"http://127.0.0.1:{port}/"
        try:
            deadline = time.monotonic() + 180
            while True:
                try:
                    urllib.request.urlopen(url, timeout=5)
                except urllib.error.HTTPError:  # it is up, and asks for the token
                    break
                except OSError:
                    assert server.poll() is None, (root / "log").read_text()
                    assert time.monotonic() < deadline, (root / "log").read_text()
                    time.sleep(0.5)
            yield url
        finally:
            server.terminate()
            server.wait()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The Space as a new visitor sees it; records what the page requests and what goes wrong in it."""
    token = {"username": "anybody", "password": "secret"}
    visitor = browser.new_context(viewport={"width": 1280, "height": 1000}, http_credentials=token)
    page = visitor.new_page()
    page.set_default_timeout(60_000)
    page.requested, page.failures = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    page.goto(address)
    wait_for_results(page, OPENING)
    yield page
    visitor.close()
    assert page.failures == []


def search(page, query: str) -> None:
    page.fill("#query textarea", query)
    page.click("#search")
    wait_for_results(page, query)


def wait_for_results(page, query: str) -> None:
    """Until the words of the first result are those of the query."""
    shown = "[...document.querySelectorAll('#results article:first-child th')].map(cell => cell.innerText)"
    page.wait_for_function(f"words => {shown}.join(' ') == words", arg=f"sentence {query}")


def names(page) -> list[str]:
    return page.locator("#results h3").all_inner_texts()


def test_it_opens_with_the_results_of_the_first_example(page):
    assert page.input_value("#query textarea") == OPENING
    assert len(names(page)) == 3


def test_a_query_shows_videos_that_play_from_their_best_moment(page, address):
    search(page, QUERY)
    assert set(names(page)) == {"one.mp4", "two.mp4", "three & four.mp4"}
    videos = page.locator("#results video")
    for number in range(videos.count()):
        video = videos.nth(number)
        start = float(video.evaluate("v => v.src.split('#t=')[1].split(',')[0]"))
        video.evaluate("v => new Promise(done => v.readyState > 1 ? done() : v.onloadeddata = done)")
        page.wait_for_function(
            "([v, start]) => v.currentTime > start + 0.1 && !v.error", arg=[video.element_handle(), start]
        )
        assert video.evaluate("v => v.videoWidth") == 64
    assert all(url.startswith((address, "data:", "blob:")) for url in page.requested)


def test_no_other_file_is_served_than_those_that_were_found(page, address, browser, tmp_path_factory):
    search(page, QUERY)
    found = page.locator("#results video").first.evaluate("v => v.src").partition("#")[0]
    assert page.request.get(found).status == 200
    assert page.request.get(f"{found[:-1]}/").status == 404
    for file in tmp_path_factory.getbasetemp().glob("space*/*/*"):
        assert page.request.get(f"{address}gradio_api/file={file}").status == 403
    stranger = browser.new_context()
    assert stranger.request.get(found).status == 401
    stranger.close()


def test_every_frame_and_word_tells_its_weight_and_leads_there(page):
    search(page, QUERY)
    table = page.locator("#results article").first.locator("table")
    assert table.locator("th").all_inner_texts() == ["sentence", "a", "blue", "square", "slides"]
    last = table.locator("tr").nth(2).locator("td").last
    assert "blue at" in last.get_attribute("title")
    seconds = float(last.get_attribute("title").split(" at ")[1].split(" s")[0])
    video = page.locator("#results video").first
    video.evaluate("v => v.pause()")
    last.click()
    page.wait_for_function("([v, t]) => Math.abs(v.currentTime - t) < 0.2", arg=[video.element_handle(), seconds])
    # The table marks the frame that is on screen, in the row of the sentence and of every word.
    page.wait_for_function("cell => cell.classList.contains('now')", arg=last.element_handle())
    assert table.locator("td.now").count() == table.locator("tr").count()


def test_an_example_is_a_click_away(page):
    page.get_by_text(EXAMPLE).click()
    wait_for_results(page, EXAMPLE)
    assert page.input_value("#query textarea") == EXAMPLE


def test_an_uploaded_video_is_found_by_its_visitor_alone(page, address, tmp_path):
    mine = write_video(tmp_path / "mine.mp4", 30, fps=10)
    page.set_input_files("#upload input[type=file]", mine)
    page.wait_for_selector("text=mine.mp4 is searched now.")
    search(page, QUERY)
    assert "mine.mp4" in names(page)
    video = page.locator("#results article", has_text="mine.mp4").locator("video")
    page.wait_for_function("v => v.readyState > 1 && !v.error", arg=video.element_handle())
    page.get_by_text(EXAMPLE).click()
    wait_for_results(page, EXAMPLE)
    assert "mine.mp4" in names(page)
    page.goto(address)
    search(page, QUERY)
    assert "mine.mp4" not in names(page)


def test_an_unreadable_file_gives_a_readable_message(page, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video")
    page.set_input_files("#upload input[type=file]", broken)
    page.wait_for_selector("#message:has-text('broken.mp4')")
    message = page.inner_text("#message")
    assert "This did not work" in message
    assert "gradio" not in message
    search(page, QUERY)
    assert "broken.mp4" not in names(page)


def test_an_empty_query_asks_for_words(page):
    page.fill("#query textarea", " ")
    page.click("#search")
    page.wait_for_selector("text=Type what happens in the video.")
    assert page.locator("#results video").count() == 0
