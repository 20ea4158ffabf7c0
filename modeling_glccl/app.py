"""The web page: type a query, see the best videos play from their best moment, and which frames and words counted."""

import copy
import html
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .packaged import install_line

try:
    import gradio as gr
    from gradio.data_classes import FileData, ListFiles
    from gradio.utils import get_upload_folder
except ImportError as _error:
    raise ImportError(f"the page needs Gradio: {install_line('demo')} ({_error})") from _error
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from . import serving
from .api import http_api, mcp_server
from .arguments import MAX_CHARACTERS
from .checkpoints import load_checkpoint
from .library import (
    Library,
    RequestError,
    SearchRequest,
    check_video,
    explain,
    forget,
    moment_url,
    path_of,
    public_name,
)
from .processing_glccl import GLCCLProcessor
from .search import Duplicate, SearchResult, VideoIndex
from .search.commands import print_errors
from .search.rendering import STYLE, clock, doubts, score_text, weights_table
from .video_files import VIDEO_SUFFIXES, find_videos
from .video_streams_glccl import VideoDecodeError

RESULTS = 4  # at first, and how many "More" adds
GROUPS = 20  # of near-duplicates
_holders: Counter[str] = Counter()  # uploaded file -> visitors who have it; Gradio keeps equal files once
_GRID = """<style>
.glccl { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1.5rem }
.glccl article { min-width: 0 }
.glccl video { width: 100%; aspect-ratio: 4 / 3; background: #8882; border-radius: 6px; object-fit: contain }
.glccl :is(button, a).do { font: inherit; color: inherit; background: none; border: 1px solid #8888;
  border-radius: 4px; padding: .1rem .5rem; margin-right: .4rem; text-decoration: none;
  cursor: pointer; display: inline-block }
.glccl :is(button, a).do:is(:hover, :focus-visible) { border-color: #e65a2e }
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
# A click on "More like this" tells the page of which video.
_ALIKE = (
    "element.addEventListener('click', event => { const button = event.target.closest('[data-like]'); "
    "if (button) trigger('alike', {like: button.dataset.like}) })"
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
        self.hold(files)
        messages = []
        if len(files) > serving.MAX_VIDEOS:
            messages.append(_message(f"{len(files)} videos; the first {serving.MAX_VIDEOS} are searched"))
            files = files[: serving.MAX_VIDEOS]
        new = [file for file in files if file not in self._files]
        if gone := set(self._files) - set(files):
            self.index.remove(gone)
        self._videos.deadline = deadline = time.monotonic() + serving.TIMEOUT_SECONDS
        for file in new:
            self._refused.pop(file, None)
            try:
                check_video(file, deadline)
            except VideoDecodeError as error:
                self._refused[file] = str(error)
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

    def hold(self, files: Sequence[str]) -> None:
        """Files to delete with this visitor, unless others have them, too."""
        _holders.update(set(files) - self._held)
        self._held.update(files)

    def close(self) -> None:
        """Deletes the index, and the files that nobody else has uploaded."""
        self._folder.cleanup()
        _holders.subtract(self._held)
        for file in self._held:
            if _holders[file]:
                continue
            del _holders[file]
            forget(file)
            if Path(file).is_relative_to(get_upload_folder()):
                with suppress(OSError):
                    Path(file).unlink()
                    Path(file).parent.rmdir()


class Page(gr.Blocks):
    """The page, and the library that it searches."""

    library: Library


def players_html(query: str | None, results: Sequence[SearchResult], processor: GLCCLProcessor) -> str:
    """The results as HTML: players, and tables of the weights of frames for sentence and words; a click seeks."""
    articles = []
    for result in results:
        assert result.moment is not None  # it was asked for
        start, end, _ = result.moment
        name = public_name(result.video_id, result.path)
        table = weights_table(query, result, processor, attributes=f'onclick="{_SEEK}"')
        articles.append(
            f'<article><video src="videos/{name}#t={start:.2f},{end:.2f}" autoplay muted playsinline controls '
            f'ontimeupdate="{_FOLLOW}"></video><h3>{html.escape(Path(result.path).name)}</h3>'
            f"<p>{html.escape(score_text(result))}, best moment {start:.1f} to {end:.1f} s</p>"
            f'<p><button class="do" data-like="{name}@{start:.3f}-{end:.3f}">More like this</button>'
            f'<a class="do" href="{html.escape(moment_url(result, exact=True))}" download>Download moment</a></p>'
            f"{table}</article>"
        )
    return f'{STYLE}{_GRID}<div class="glccl">{"".join(articles)}</div>' if articles else "There is no such video."


def duplicates_html(groups: Sequence[Sequence[Duplicate]]) -> str:
    """Groups of near-duplicates as HTML."""
    parts = [f"{sum(map(len, groups))} videos in {len(groups)} groups"]
    parts[0] += f"; the {GROUPS} most alike:" if len(groups) > GROUPS else ""
    for group in groups[:GROUPS]:
        articles = [
            f'<article><video src="videos/{public_name(video.video_id, video.path)}#t=0.1" controls muted>'
            f"</video><h3>{html.escape(Path(video.path).name)}</h3>"
            f"<p>similarity {video.score:.2f}, {clock(video.duration)}</p></article>"
            for video in group
        ]
        parts.append(f'<hr><div class="glccl">{"".join(articles)}</div>')
    return STYLE + _GRID + "".join(parts)


def _upload(**options: Any) -> gr.File:
    """Takes what a visitor sends, as paths: Gradio would also fetch addresses, and leave an empty file beside each."""
    # High enough for its label above its icon. No subclass: Gradio would write a file of types beside this one.
    upload = gr.File(height=160, **options)
    move = upload.async_move_resource_to_block_cache

    async def keep(url_or_file_path: str | Path | None) -> str | None:
        if str(url_or_file_path).startswith(("http:", "https:")):
            raise gr.Error("Send the file itself: nothing is fetched.", print_exception=False)
        return await move(url_or_file_path)

    def paths(payload: ListFiles | FileData | None) -> list[str]:
        files = payload.root if isinstance(payload, ListFiles) else [payload]
        return [file.path for file in files if file is not None]

    upload.async_move_resource_to_block_cache = keep
    upload.preprocess = paths
    return upload


def build_app(
    index: VideoIndex,
    folder: TemporaryDirectory,
    *,
    examples: Sequence[str] = (),
    title: str = "Video search with GLCCL",
) -> Page:
    """The page.

    Args:
        index: the videos that are there from the start.
        folder: holds the indexes of what visitors add, each of which only its visitor finds.
        examples: queries to click on; the page opens with the results of the first.
        title: of the page.
    """
    # A folder of this server alone: Gradio lets whoever knows a file's name read what lies in its folder of uploads.
    os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(folder.name) / "uploads"))
    library = Library(index, folder.name)

    def search(example: list[str], uploads: Uploads | None, *form: Any) -> tuple[Any, ...]:
        given = dict(zip(fields, form, strict=True))
        if example:
            uploads = uploads or Uploads(index, folder.name)
            uploads.hold(example)
            kind = "video" if Path(example[0]).suffix.lower() in VIDEO_SUFFIXES else "image"
            return show(given, {kind: example[0]}, RESULTS, uploads)
        if not any((given[name] or "").strip() for name in ("query", "and_")):
            return "Type what happens in the video, or give an example.", "", gr.Button(visible=False), None, uploads
        return show(given, {}, RESULTS, uploads)

    def alike(event: gr.EventData, uploads: Uploads | None, *form: Any) -> tuple[Any, ...]:
        filters = dict(zip(fields, form, strict=True)) | {"query": "", "and_": "", "not_": "", "min_confidence": 0}
        return show(filters | {"like": event.like}, {}, RESULTS, uploads)

    def more(asked: tuple[dict[str, Any], dict[str, str], int], uploads: Uploads | None) -> tuple[Any, ...]:
        given, files, shown = asked
        return show(given, files, shown + RESULTS, uploads)

    def show(given: dict[str, Any], files: dict[str, str], k: int, uploads: Uploads | None) -> tuple[Any, ...]:
        """What the events of the page show: a message, the results, whether there are more, and for what."""
        values = {name: value.strip() if isinstance(value, str) else value for name, value in given.items()}
        values = {name: value for name, value in values.items() if value not in ("", None, 0)}
        for name in values.keys() & {"and_", "not_"}:
            values[name] = [line for line in values[name].splitlines() if line.strip()]
        try:
            request = SearchRequest.model_validate(values | {"k": min(k + 1, serving.MAX_RESULTS)})
            found = library.find(request, [uploads.index] if uploads else [], **files)
        except (ValidationError, RequestError) as error:
            fault = explain(error.errors()) if isinstance(error, ValidationError) else str(error)
            return _message(fault), "", gr.Button(visible=False), None, uploads
        page = players_html(request.query, found[:k], index.processor)
        note = "  \n".join(map(str.capitalize, doubts(request.query, found, index.processor)))
        return note, page, gr.Button(visible=len(found) > k), (given, files, k), uploads

    def add(files: list[str], uploads: Uploads | None) -> tuple[str, Uploads | None]:
        if files and uploads is None:
            uploads = Uploads(index, folder.name)
        return "  \n".join(uploads.show(files) if uploads else []), uploads

    def duplicates(threshold: float) -> str:
        try:
            return duplicates_html(library.near_duplicates(threshold))
        except RequestError as error:
            return html.escape(str(error))

    # What was uploaded but never reached a session is deleted after a day.
    with Page(title=title, analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        uploads = gr.State(None, delete_callback=lambda uploads: uploads and uploads.close())
        asked = gr.State(None)
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
        with gr.Accordion("More options", open=False, elem_id="options"):
            several: dict[str, Any] = {
                "placeholder": "a sentence; Shift-Enter for one more",
                "max_lines": serving.MAX_SENTENCES,
                "max_length": 4 * MAX_CHARACTERS,
            }
            with gr.Row():
                fields: dict[str, Any] = {
                    "query": query,
                    "and_": gr.Textbox(label="And this, too", elem_id="and", **several),
                    "not_": gr.Textbox(label="But not this", elem_id="not", **several),
                }
            with gr.Row():
                text = "a folder of the library, or *2026*"
                fields["folder"] = gr.Textbox(label="Below this folder", placeholder=text, elem_id="folder")
                day: dict[str, Any] = {"include_time": False, "type": "string"}
                fields["since"] = gr.DateTime(label="File changed on this day or later", elem_id="since", **day)
                fields["until"] = gr.DateTime(label="On this day or earlier", elem_id="until", **day)
            with gr.Row():
                # Not gr.Number, which shows None as 0.
                for name, label in (("min_duration", "Seconds, at least"), ("max_duration", "Seconds, at most")):
                    fields[name] = gr.Textbox(label=label, placeholder="any", elem_id=name)
                label, calibrated = "Confidence, at least", index.model.config.confidence_weights is not None
                fields["min_confidence"] = gr.Slider(0, 1, 0, step=0.05, label=label, visible=calibrated)
            label = "Find videos like this image or video"
            example = _upload(label=label, file_types=["image", "video"], elem_id="example")
        submits = [field.submit for field in fields.values() if hasattr(field, "submit")]
        events = [button.click, example.upload, *submits]
        if examples:
            clickable = gr.Examples([[example] for example in examples], query)
            events += [clickable.load_input_event.then, blocks.load]
        gr.Markdown(
            "Videos play from their best moment, which is orange in the bars: how much each frame counts for the "
            "sentence. Below: the frames that each word is about. Point at a frame for its weight, click to go there."
        )
        message = gr.Markdown(elem_id="message")
        results = gr.HTML(elem_id="results", js_on_load=_ALIKE)
        further = gr.Button("More", visible=False, elem_id="more")
        upload = _upload(
            label="Search your own videos too",
            file_count="multiple",
            file_types=["video"],
            elem_id="upload",
        )
        with gr.Accordion("Near-duplicates", open=False, elem_id="duplicates"):
            threshold = gr.Slider(serving.LEAST_ALIKE, 1, 0.93, step=0.01, label="Similarity, at least")
            compare = gr.Button("Find near-duplicates")
            groups = gr.HTML(elem_id="groups")
            compare.click(duplicates, threshold, groups, api_visibility="private")
        form, shown = list(fields.values()), [message, results, further, asked, uploads]
        for event in events:
            event(search, [example, uploads, *form], shown, api_visibility="private")
        results.alike(alike, [uploads, *form], shown, api_visibility="private")
        further.click(more, [asked, uploads], shown, api_visibility="private")
        upload.change(add, [upload, uploads], [message, uploads], api_visibility="private")
    blocks.library = library
    return blocks


def open_searcher(
    index: str | Path | None = None,
    checkpoint: str | None = None,
    videos: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "threads",
    runtime: str | None = None,
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
        for name, value in {"--runtime": runtime, "the checkpoint": checkpoint, "--videos": videos}.items():
            if value:
                raise ValueError(f"{name} {value}: {index} has its own, which is used; leave it out")
        return VideoIndex.open(index, device=device, precision=precision, engine=engine), folder
    if engine != "threads":
        raise ValueError(f"--engine {engine}: a cluster holds the shards of an index: pass --index")
    if checkpoint is None or videos is None:
        raise ValueError("which videos? Pass --index, or a checkpoint and --videos")
    for note in find_videos(videos).check().notes():
        print(note)
    model, processor = load_checkpoint(checkpoint)
    where: dict[str, Any] = {"device": device, "precision": precision, "runtime": runtime or "torch"}
    opened = VideoIndex.create(Path(folder.name) / "index", model, processor, **where)
    opened.update(videos)
    print_errors(opened)
    if not len(opened):
        raise ValueError(f"{videos}: not one video there can be read; why is said above")
    return opened, folder


def _message(fault: str) -> str:
    return f"**This did not work:** {html.escape(fault)}"


async def _send_video(request: Request) -> Response:
    path = path_of(request.path_params["name"])
    return FileResponse(path) if os.path.isfile(path) else Response(status_code=404)


def launch(page: Page, access: serving.Access, mcp: bool = False, wait: bool = True, **options: Any) -> Any:
    """Starts page and API for those who have `access`: no analytics, nothing fetched from elsewhere.

    Args:
        page: from `build_app`.
        access: who is let in.
        mcp: whether the API's functions are tools of MCP, too, at /mcp.
        wait: until Ctrl-C; else returns what Gradio's `launch` does.
        **options: of Gradio's `launch`.
    """
    routes: list[BaseRoute] = [
        Route("/videos/{name}", _send_video),
        Route("/gradio_api/file=http{rest:path}", Response(status_code=404)),  # Gradio would fetch addresses
        Mount("/api", http_api(page.library)),
    ]
    settings: dict[str, Any] = {"routes": routes, "middleware": access.middleware()}
    if mcp:
        route, settings["lifespan"] = mcp_server(page.library)
        routes.append(route)
    launched = page.queue(max_size=serving.MAX_WAITING).launch(
        server_name=access.host,
        app_kwargs=settings,
        max_file_size=serving.MAX_VIDEO_BYTES,
        footer_links=[],
        ssr_mode=False,
        prevent_thread_lock=True,
        quiet=True,  # its lines are for programmers
        **options,
    )
    if not wait:
        return launched
    print(f"open {page.local_url} in a browser; Ctrl-C ends it", flush=True)
    try:
        while page.is_running:
            time.sleep(0.1)
    finally:
        page.close(verbose=False)
