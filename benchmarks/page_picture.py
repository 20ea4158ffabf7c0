"""Films the web page: a query is typed, the videos play at their best moment, one of them becomes the example.

python benchmarks/page_picture.py docs/images/page.webp
"""

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import errors

from PIL import Image
from playwright.sync_api import sync_playwright

SPACE = Path(__file__).parents[1] / "hub" / "space" / "app.py"
QUERY = "a green heart bounces"
_WIDTH, _HEIGHT = 1040, 700
_QUALITY = 45


@contextmanager
def serve() -> Iterator[str]:
    """The address of the Space, over the videos that it renders, as long as the block lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
        environment.pop("GLCCL_VIDEOS", None)
        server = subprocess.Popen([sys.executable, str(SPACE)], cwd=folder, env=environment)
        try:
            while True:
                try:
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                except OSError:
                    if server.poll() is not None:
                        raise SystemExit("the Space did not start: see above") from None
                    time.sleep(0.5)
            yield url
        finally:
            server.terminate()
            server.wait()


def film(page: Any) -> tuple[list[Image.Image], list[int]]:
    """Pictures of the page and how long each is shown, milliseconds."""
    pictures, times = [], []

    def watch(seconds: float, rate: float = 5) -> None:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            times.append(now)
            pictures.append(Image.open(io.BytesIO(page.screenshot(type="jpeg", quality=92))).convert("RGB"))
            time.sleep(max(0.0, now + 1 / rate - time.monotonic()))

    def until(found: Callable[[], None]) -> None:  # what is waited for is not filmed
        waited = time.monotonic()
        found()
        times[:] = [moment + time.monotonic() - waited for moment in times]

    field = page.locator("#query textarea")
    until(lambda: page.wait_for_selector("#results article:nth-child(4)"))
    watch(0.8)
    field.fill("")
    for end in range(2, len(QUERY) + 1, 2):
        field.fill(QUERY[:end])
        watch(0.12)
    field.fill(QUERY)
    watch(0.4)
    words = "[...document.querySelectorAll('#results article:first-child th')].map(cell => cell.innerText).join(' ')"
    page.click("#search")
    until(lambda: page.wait_for_function(f"query => {words} == 'sentence ' + query", arg=QUERY))
    page.locator("#results article").first.evaluate("e => e.scrollIntoView({behavior: 'instant', block: 'start'})")
    watch(5)
    page.locator("#results article").first.locator("tr").last.locator("td").nth(4).hover()
    watch(1.5)
    page.get_by_text("More like this").first.click()
    until(lambda: page.wait_for_selector("#results p:has-text('similarity')"))
    watch(5)
    spans = [round(1000 * (after - before)) for before, after in pairwise(times)]
    return pictures, [*spans, 1500]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Films the web page")
    parser.add_argument("file", type=Path, help="a .webp file")
    arguments = parser.parse_args()
    with serve() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light")
        page.set_default_timeout(60_000)
        page.goto(url)
        pictures, spans = film(page)
        browser.close()
    first, *others = pictures
    first.save(arguments.file, save_all=True, append_images=others, duration=spans, loop=0, quality=_QUALITY, method=4)
    print(f"{arguments.file}: {len(pictures)} pictures, {arguments.file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
