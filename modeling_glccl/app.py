"""The web page: type a query, see the best videos play from their best moment, and which frames and words counted."""

import copy
import hashlib
import html
import os
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

try:
    import gradio as gr
    from gradio.data_classes import FileData, ListFiles
    from gradio.utils import get_upload_folder
except ImportError as _error:
    raise ImportError(f"the page needs Gradio: pip install 'modeling_glccl[demo]' ({_error})") from _error
import torch
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from . import serving
from .checkpoints import load_checkpoint
from .decoding_process_glccl import decode_in_process
from .processing_glccl import GLCCLProcessor
from .search import SearchResult, VideoIndex
from .search.commands import print_errors
from .search.ranking import MAX_CHARACTERS, encode_queries
from .search.rendering import STYLE, score_text, weights_table
from .video_decoding_glccl import VideoDecodeError
from .video_files import find_videos

RESULTS = 4
_SECRET = secrets.token_bytes(16)
_found: dict[str, str] = {}  # what a query found may be watched, under a name that tells nothing: name -> path
_holders: Counter[str] = Counter()  # uploaded file -> visitors who have it; Gradio keeps equal files once
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
    """The videos that one visitor added: an index in a folder of its own below `folder`, until `close`.

    They are decoded in processes of their own, which are ended after `serving.TIMEOUT_SECONDS`.
    """

    def __init__(self, index: VideoIndex, folder: str):
        self._folder = TemporaryDirectory(dir=folder, ignore_cleanup_errors=True)
        processor = copy.copy(index.processor)
        self._videos = processor.video_processor = copy.copy(processor.video_processor)
        self.index = VideoIndex.create(Path(self._folder.name) / "index", index.model, processor)
        self._files: list[str] = []  # shown
        self._held: set[str] = set()  # shown before, too
        self._refused: dict[str, str] = {}  # file -> why

    def show(self, files: Sequence[str]) -> list[str]:
        """Makes these files, and no others, found; returns a line for each that is new or cannot be searched."""
        files = list(dict.fromkeys(files))
        _holders.update(set(files) - self._held)
        self._held.update(files)
        messages = []
        if len(files) > serving.MAX_VIDEOS:
            messages.append(_message(f"{len(files)} videos; the first {serving.MAX_VIDEOS} are searched"))
            files = files[: serving.MAX_VIDEOS]
        new = [file for file in files if file not in self._files]
        if gone := set(self._files) - set(files):
            self.index.remove(gone)
        self._videos.deadline = time.monotonic() + serving.TIMEOUT_SECONDS
        for file in new:
            self._refused.pop(file, None)
            if reason := self._why_refused(file):
                self._refused[file] = reason
        if accepted := {file: file for file in new if file not in self._refused}:
            self.index.add(accepted, progress=False)
        self._files, errors = files, self.index.errors() | self._refused
        for file in files:
            name = Path(file).name
            if file in errors:
                # A library's words do not name the file; they stay here.
                reason = errors[file].replace(file, name) if file in errors[file] else f"{name}: cannot be searched"
                messages.append(_message(reason))
            elif file in new:
                messages.append(f"{name} is searched now.")
        return messages

    def _why_refused(self, file: str) -> str | None:
        limit, deadline = serving.MAX_VIDEO_SECONDS, self._videos.deadline
        try:  # no more is decoded than tells how long it is
            video = decode_in_process(
                file, 1, None, limit + 1, "uniform", 1, lambda frame: frame[0], deadline=deadline
            )
        except VideoDecodeError as error:
            return str(error)
        long = f"{file}: lasts {video.duration:.0f} s; at most {limit:.0f} s are allowed"
        return long if video.duration > limit else None

    def close(self) -> None:
        """Deletes the index, and the files that nobody else has uploaded."""
        self._folder.cleanup()
        _holders.subtract(self._held)
        for file in self._held:
            if _holders[file]:
                continue
            del _holders[file]
            _found.pop(_public_name(file), None)
            if Path(file).is_relative_to(get_upload_folder()):
                with suppress(OSError):
                    Path(file).unlink()
                    Path(file).parent.rmdir()


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
        assert result.moment is not None  # it was asked for
        start, end, _ = result.moment
        source = f"videos/{_public_name(result.path)}#t={start:.2f},{end:.2f}"
        table = weights_table(query, result, processor, attributes=f'onclick="{_SEEK}"')
        articles.append(
            f'<article><video src="{html.escape(source)}" autoplay muted playsinline controls '
            f'ontimeupdate="{_FOLLOW}"></video><h3>{html.escape(Path(result.path).name)}</h3>'
            f"<p>{html.escape(score_text(result))}, best moment {start:.1f} to {end:.1f} s</p>{table}</article>"
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
    # A folder of this server alone: Gradio lets whoever knows a file's name read what lies in its folder of uploads.
    os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(folder.name) / "uploads"))

    def search(query: str, uploads: Uploads | None) -> tuple[str, str]:
        if not query.strip():
            return "Type what happens in the video.", ""
        try:
            found = search_all(query, [index, *([uploads.index] if uploads else [])], RESULTS)
        except ValueError as error:
            return _message(error), ""
        # Files become readable over the network one by one, when they are found: never a folder.
        _found.update({_public_name(result.path): result.path for result in found})
        return "", players_html(query, found, index.processor)

    async def keep(url_or_file_path: str | Path | None) -> str | None:
        if str(url_or_file_path).startswith(("http:", "https:")):
            raise gr.Error("Send the video itself: nothing is fetched.", print_exception=False)
        return await gr.File.async_move_resource_to_block_cache(upload, url_or_file_path)

    def paths(payload: ListFiles | FileData | None) -> list[str]:
        return [file.path for file in payload.root] if isinstance(payload, ListFiles) else []

    def add(files: list[str], uploads: Uploads | None) -> tuple[str, Uploads | None]:
        if files and uploads is None:
            uploads = Uploads(index, folder.name)
        return "  \n".join(uploads.show(files) if uploads else []), uploads

    # What was uploaded but never reached a session is deleted after a day.
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        uploads = gr.State(None, delete_callback=lambda uploads: uploads and uploads.close())
        gr.Markdown(f"# {title}")
        with gr.Row(equal_height=True):
            query = gr.Textbox(
                value=next(iter(examples), ""),
                label="What happens in the video?",
                placeholder="a dog jumps into the water",
                scale=5,
                elem_id="query",
                max_length=MAX_CHARACTERS,
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
        # Gradio would fetch what is named by an address, and leave an empty file beside each that was sent.
        upload.async_move_resource_to_block_cache = keep
        upload.preprocess = paths
        for event in events:
            event(search, [query, uploads], [message, results], api_name="search")
        upload.change(add, [upload, uploads], [message, uploads], api_visibility="private")
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
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # pyright: ignore[reportArgumentType]
    opened = VideoIndex.create(Path(folder.name) / "index", model, processor)
    opened.update(videos)
    print_errors(opened)
    if not len(opened):
        raise ValueError(f"{videos}: not one video there can be read; why is said above")
    return opened, folder


def _message(error: object) -> str:
    return f"**This did not work:** {html.escape(str(error))}"


def _public_name(path: str) -> str:
    return hashlib.blake2b(os.fsencode(path), key=_SECRET, digest_size=16).hexdigest()


async def _send_video(request: Request) -> Response:
    path = _found.get(request.path_params["name"], "")
    return FileResponse(path) if os.path.isfile(path) else Response(status_code=404)


async def _not_found(_: Request) -> Response:
    return Response(status_code=404)


def launch(blocks: gr.Blocks, access: serving.Access, **options: Any) -> Any:
    """Starts the page for those who have `access`: no analytics, nothing fetched from elsewhere."""
    # Gradio would fetch addresses.
    routes = [Route("/videos/{name}", _send_video), Route("/gradio_api/file=http{rest:path}", _not_found)]
    return blocks.queue(max_size=serving.MAX_WAITING).launch(
        server_name=access.host,
        app_kwargs={"routes": routes, "middleware": access.middleware()},
        max_file_size=serving.MAX_VIDEO_BYTES,
        footer_links=[],
        ssr_mode=False,
        **options,
    )
