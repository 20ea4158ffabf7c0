"""The web page: type a query, see the best videos play from their best moment, and which frames and words counted."""

import html
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

try:
    import gradio as gr
except ImportError as _error:
    raise ImportError(f"the page needs Gradio: pip install 'modeling_glccl[demo]' ({_error})") from _error
import torch

from .checkpoints import load_checkpoint
from .processing_glccl import GLCCLProcessor
from .search import SearchResult, VideoIndex
from .search.commands import print_errors
from .search.ranking import encode_queries
from .search.rendering import STYLE, weights_table
from .video_files import find_videos

RESULTS = 4
_GRID = """<style>
.glccl { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1.5rem }
.glccl article { min-width: 0 }
.glccl video { width: 100%; aspect-ratio: 4 / 3; background: #8882; border-radius: 6px; object-fit: contain }
</style>"""
# While a video plays, marks the frame of its table that is nearest.
_FOLLOW = (
    "const rows = [...this.closest('article').querySelectorAll('tr')], "
    "far = [...rows[0].querySelectorAll('td')].map(cell => Math.abs(cell.dataset.time - this.currentTime)), "
    "now = far.indexOf(Math.min(...far)); "
    "rows.forEach(row => row.querySelectorAll('td').forEach((cell, i) => cell.classList.toggle('now', i == now)))"
)
# A click on a frame of the table goes there in the video.
_SEEK = (
    "const cell = event.target.closest('td'); "
    "if (cell) this.closest('article').querySelector('video').currentTime = cell.dataset.time"
)


class Uploads:
    """The videos that one visitor added: an index in a folder of its own below `folder`, until `close`."""

    def __init__(self, index: VideoIndex, folder: str):
        self._folder = TemporaryDirectory(dir=folder, ignore_cleanup_errors=True)
        self.index = VideoIndex.create(Path(self._folder.name) / "index", index.model, index.processor)
        self._files: list[str] = []

    def show(self, files: Sequence[str]) -> list[str]:
        """Makes these files, and no others, found; returns a line for each that is new or unreadable."""
        new = {file: file for file in files if file not in self._files}
        if gone := set(self._files) - set(files):
            self.index.remove(gone)
        if new:
            self.index.add(new, progress=False)
        self._files, errors = list(files), self.index.errors()
        return [
            _message(errors[file].replace(file, Path(file).name))
            if file in errors
            else f"{Path(file).name} is searched now."
            for file in dict.fromkeys(files)
            if file in new or file in errors
        ]

    def close(self) -> None:
        """Deletes the index."""
        self._folder.cleanup()


@torch.inference_mode()
def search_all(query: str, indexes: Sequence[VideoIndex], k: int) -> list[SearchResult]:
    """The k best videos of some indexes of one model together; the query is encoded once."""
    texts = encode_queries(indexes[0].model, indexes[0].processor, [query])
    found = [result for index in indexes for result in index.search_features(texts, k, moments=True)[0]]
    return sorted(found, key=lambda result: -result.score)[:k]


def players_html(query: str, results: Sequence[SearchResult], processor: GLCCLProcessor) -> str:
    """The results as HTML: players, and tables of the weights of frames for sentence and words; a click seeks."""
    articles = []
    for result in results:
        start, end, _ = result.moment
        source = f"gradio_api/file={quote(result.path)}#t={start:.2f},{end:.2f}"
        table = weights_table(query, result, processor, attributes=f'onclick="{_SEEK}"')
        articles.append(
            f'<article><video src="{html.escape(source)}" autoplay muted playsinline controls '
            f'ontimeupdate="{_FOLLOW}"></video><h3>{html.escape(Path(result.path).name)}</h3>'
            f"<p>score {result.score:.2f}, best moment {start:.1f} to {end:.1f} s</p>{table}</article>"
        )
    if not articles:
        return "There is no video yet: upload one."
    return f'{STYLE}{_GRID}<div class="glccl">{"".join(articles)}</div>'


def build_app(
    index: VideoIndex,
    folder: TemporaryDirectory,
    *,
    examples: Sequence[str] = (),
    title: str = "Video search with GLCCL",
) -> gr.Blocks:
    """The page.

    Args:
        index: the videos that are there from the start.
        folder: holds the indexes of what visitors add, each of which only its visitor finds.
        examples: queries to click on; the page opens with the results of the first.
        title: of the page.
    """
    served: set[str] = set()

    def search(query: str, uploads: Uploads | None) -> tuple[str, str]:
        if not query.strip():
            return "Type what happens in the video.", ""
        try:
            found = search_all(query, [index, *([uploads.index] if uploads else [])], RESULTS)
        except ValueError as error:
            return _message(error), ""
        # Files become readable over the network one by one, when they are found: never a folder.
        new = {result.path for result in found} - served
        gr.set_static_paths(sorted(new))
        served.update(new)
        return "", players_html(query, found, index.processor)

    def add(files: list[str] | None, uploads: Uploads | None) -> tuple[str, Uploads | None]:
        if files and uploads is None:
            uploads = Uploads(index, folder.name)
        return "  \n".join(uploads.show(files or []) if uploads else []), uploads

    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        uploads = gr.State(None, delete_callback=lambda uploads: uploads and uploads.close())
        gr.Markdown(f"# {title}")
        with gr.Row(equal_height=True):
            query = gr.Textbox(
                value=next(iter(examples), ""),
                label="What happens in the video?",
                placeholder="a dog jumps into the water",
                scale=5,
                elem_id="query",
            )
            button = gr.Button("Search", variant="primary", scale=1, elem_id="search")
        events = [button.click, query.submit]
        if examples:
            clickable = gr.Examples([[example] for example in examples], query)
            events += [clickable.load_input_event.then, blocks.load]
        gr.Markdown(
            "Videos play from their best moment, which is orange in the bars: how much each frame counts for the "
            "sentence. Below: the frames that each word is about. Point at a frame for its weight, click to go there."
        )
        message = gr.Markdown(elem_id="message")
        results = gr.HTML(elem_id="results")
        upload = gr.File(
            label="Search your own videos too",
            file_count="multiple",
            file_types=["video"],
            elem_id="upload",
            height=140,
        )
        for event in events:
            event(search, [query, uploads], [message, results], api_name="search")
        upload.change(add, [upload, uploads], [message, uploads], api_name=False)
    return blocks


def open_searcher(
    index: str | Path | None = None, checkpoint: str | None = None, videos: str | Path | None = None
) -> tuple[VideoIndex, TemporaryDirectory]:
    """What [`build_app`] takes, of an index (`glccl index`), or of a checkpoint and a folder of videos.

    The folder is indexed anew, in a temporary folder that is deleted when this process ends; unreadable videos are
    listed and left out.

    Raises:
        ValueError: neither the one nor the other; a folder without videos that can be read.
        FileNotFoundError: no such index or folder.
    """
    folder = TemporaryDirectory(prefix="glccl-", ignore_cleanup_errors=True)
    if index is not None:
        return VideoIndex.open(index), folder
    if checkpoint is None or videos is None:
        raise ValueError("which videos? Pass --index, or a checkpoint and --videos")
    for note in find_videos(videos).check().notes():
        print(note)
    model, processor = load_checkpoint(checkpoint)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    opened = VideoIndex.create(Path(folder.name) / "index", model, processor)
    opened.update(videos)
    print_errors(opened)
    if not len(opened):
        raise ValueError(f"{videos}: not one video there can be read; why is said above")
    return opened, folder


def _message(error: object) -> str:
    return f"**This did not work:** {html.escape(str(error))}"


def launch(blocks: gr.Blocks, **options: Any) -> Any:
    """Starts the page: no analytics, nothing fetched from elsewhere, uploads of at most 200 MB."""
    settings = {"max_file_size": "200mb", "show_error": True, "footer_links": [], "ssr_mode": False}
    return blocks.launch(**settings | options)
