"""The Space in a real browser, offline: type, filter, watch, page on, cut, add a video, meet an unreadable file."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import av
import pytest
from paths import REPOSITORY
from PIL import Image
from videos import write_video

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")

SPACE = REPOSITORY / "hub" / "space" / "app.py"
CHROMIUM = shutil.which("chromium")
OPENING, EXAMPLE = "a red ball bounces", "a red square bounces"
QUERY = "a blue square slides"
VIDEOS = ("one.mp4", "two.mp4", "three & four.mp4", "more/five.mp4", "more/six.mp4")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium in the path: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory, checkpoint):
    """The Space, started as its own process on a tiny checkpoint and three videos."""
    root = tmp_path_factory.mktemp("space")
    videos = root / "videos"
    (videos / "more").mkdir(parents=True)
    for number, name in enumerate(VIDEOS):
        write_video(videos / name, 40 + 10 * number, fps=10)
    (videos / "examples.txt").write_text(f"{OPENING}\n{EXAMPLE}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "GLCCL_CHECKPOINT": str(checkpoint),
        "GLCCL_VIDEOS": str(videos),
        "GLCCL_TOKEN": "secret",
    }
    environment |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(root / "uploads")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "cache")}
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


@contextmanager
def visit(browser, address, width=1280, **options):
    """The Space as a new visitor sees it; records what the page requests and what goes wrong in it."""
    token = {"username": "anybody", "password": "secret"}
    visitor = browser.new_context(viewport={"width": width, "height": 1000}, http_credentials=token, **options)
    page = visitor.new_page()
    page.set_default_timeout(20_000)
    page.requested, page.failures = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    page.goto(address)
    wait_for_results(page, OPENING)
    yield page
    visitor.close()
    assert page.failures == []


@pytest.fixture
def page(browser, address):
    with visit(browser, address) as page:
        yield page


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


def all_names(page) -> list[str]:
    """After clicking "More" until there are no more."""
    while page.locator("#more").is_visible():
        shown = len(names(page))
        page.click("#more")
        page.wait_for_function("shown => document.querySelectorAll('#results article').length > shown", arg=shown)
        page.wait_for_timeout(300)  # the button may just be leaving
    return names(page)


def test_a_query_shows_videos_that_play_from_their_best_moment(page, address):
    assert page.input_value("#query textarea") == OPENING  # the first example
    search(page, QUERY)
    assert len(names(page)) == 4
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


def test_more_results_appear_below_the_others_which_play_on(page):
    search(page, QUERY)
    first, video = names(page), page.locator("#results video").first
    page.wait_for_function("v => v.currentTime > 0.5", arg=video.element_handle())
    loaded = len([url for url in page.requested if "/videos/" in url])
    before = video.element_handle()
    page.click("#more")
    page.wait_for_selector("#results article:nth-child(5)")
    assert names(page)[:4] == first
    assert {*names(page)} == {Path(name).name for name in VIDEOS}
    page.wait_for_selector("#more", state="hidden")
    assert before.evaluate("v => v.isConnected && v.currentTime > 0.3")
    assert len({url for url in page.requested[loaded:] if "/videos/" in url}) <= 5


def test_a_filter_narrows_what_is_found(page):
    page.get_by_text("More options").click()
    page.fill("#folder textarea, #folder input", "more")
    page.fill("#max_duration textarea, #max_duration input", "7.5")
    search(page, QUERY)
    page.wait_for_function("document.querySelectorAll('#results article').length == 1")
    assert names(page) == ["five.mp4"]
    page.fill("#folder textarea, #folder input", "elsewhere")
    page.click("#search")
    page.wait_for_selector("#message:has-text('no video passes the filters')")


def test_a_click_finds_more_like_a_moment(page):
    search(page, QUERY)
    first = names(page)[0]
    page.get_by_text("More like this").first.click()
    page.wait_for_selector("#results p:has-text('similarity')")
    assert first not in names(page)
    assert page.locator("#results th").all_inner_texts() == ["sentence"] * 4


def test_an_image_is_an_example(page, tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    page.get_by_text("More options").click()
    page.fill("#query textarea", "")
    page.set_input_files("#example input[type=file]", tmp_path / "red.png")
    page.wait_for_selector("#results p:has-text('similarity')")
    assert len(all_names(page)) == 5


def test_a_moment_is_downloaded_as_a_file_that_plays(page, tmp_path):
    search(page, QUERY)
    start, end = map(float, page.locator("#results video").first.evaluate("v => v.src.split('#t=')[1].split(',')"))
    with page.expect_download() as download:
        page.get_by_text("Download moment").first.click()
    assert download.value.suggested_filename == f"{Path(names(page)[0]).stem}_{start:.1f}-{end:.1f}.mp4"
    download.value.save_as(tmp_path / "moment.mp4")
    with av.open(tmp_path / "moment.mp4") as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == pytest.approx(10 * (end - start), abs=1)


def test_near_duplicates_are_found_on_request(page):
    page.get_by_text("Near-duplicates").click()
    page.get_by_text("Find near-duplicates").click()
    page.wait_for_selector("#groups:has-text('videos in')")


def test_all_of_it_works_with_the_keyboard(page):
    focused = "document.activeElement.closest('[id]:not([id^=component])')?.id"
    page.focus("#query textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type(QUERY)
    page.keyboard.press("Enter")
    wait_for_results(page, QUERY)
    order = []
    for _ in range(2):
        page.keyboard.press("Tab")
        order.append(page.evaluate(focused))
    page.keyboard.press("Enter")
    page.wait_for_selector("#folder")
    while order[-1] != "max_duration":
        page.keyboard.press("Tab")
        order.append(page.evaluate(focused))
        assert len(order) < 12
    fields = ["search", "options", "and", "not", "folder", "since", "until", "min_duration", "max_duration"]
    assert list(dict.fromkeys(order)) == fields
    page.keyboard.type("5.5")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#results article').length == 2")
    page.get_by_text("More like this").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#results p:has-text('similarity')")


# The ratio of WCAG between the colour of a text and that of what it stands on.
_CONTRAST = """element => {
    const read = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a] }
    const style = getComputedStyle(element)
    let under = element
    while (under.parentElement && read(getComputedStyle(under).backgroundColor)[3] < 0.5) under = under.parentElement
    const back = read(getComputedStyle(under).backgroundColor).slice(0, 3), opacity = Number(style.opacity)
    const text = read(style.color).slice(0, 3).map((value, i) => value * opacity + back[i] * (1 - opacity))
    const light = colour => colour.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0) + 0.05
    const [a, b] = [light(text), light(back)]
    return [Math.max(a, b) / Math.min(a, b), light(back)]
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_can_be_read(browser, address, width, scheme):
    with visit(browser, address, width, color_scheme=scheme) as page:
        page.get_by_text("More options").click()
        page.wait_for_selector("#folder")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for text in ("h3", "p:has-text('score')", "button.do", "a.do", "th >> nth=1"):
            contrast, behind = page.locator(f"#results {text}").first.evaluate(_CONTRAST)
            assert contrast >= 4.5, text
            assert (behind < 0.2) == (scheme == "dark")
        widths = page.locator("#results article").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().right)"
        )
        assert max(widths) <= width
        for box in ("#example", "#upload"):
            parts = (page.locator(f"{box} [data-testid={part}]") for part in ("block-label", "upload-icon"))
            label, icon = (part.bounding_box() for part in parts)
            assert label["y"] + label["height"] <= icon["y"]


def test_an_uploaded_video_is_found_by_its_visitor_alone(page, address, tmp_path):
    mine = write_video(tmp_path / "mine.mp4", 30, fps=10)
    page.set_input_files("#upload input[type=file]", mine)
    page.wait_for_selector("text=mine.mp4 is searched now.")
    search(page, QUERY)
    assert "mine.mp4" in all_names(page)
    video = page.locator("#results article", has_text="mine.mp4").locator("video")
    page.wait_for_function("v => v.readyState > 1 && !v.error", arg=video.element_handle())
    page.get_by_text(EXAMPLE).click()
    wait_for_results(page, EXAMPLE)
    assert page.input_value("#query textarea") == EXAMPLE
    assert "mine.mp4" in all_names(page)
    page.goto(address)
    search(page, QUERY)
    assert "mine.mp4" not in all_names(page)
