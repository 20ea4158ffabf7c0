"""The web page: type a query, see the best videos play from their best moment, and which frames and words counted."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import gradio as gr
import numpy as np
import torch

from .checkpoints import load_checkpoint
from .features_glccl import GLCCLVideoFeatures
from .pipeline_glccl import IndexedVideos, TextVideoRetrievalPipeline

RESULTS = 4
VIDEO_SUFFIXES = {".mp4", ".webm", ".mkv", ".mov", ".avi"}
_STYLE = """<style>
.glccl { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1.5rem }
.glccl article { min-width: 0 }
.glccl video { width: 100%; aspect-ratio: 4 / 3; background: #8882; border-radius: 6px; object-fit: contain }
.glccl h3 { margin: .4rem 0 .1rem; font-size: 1rem; overflow-wrap: anywhere }
.glccl p { margin: 0 0 .5rem; opacity: .75; font-size: .85rem }
.glccl table.weights { width: 100%; border-collapse: collapse; table-layout: fixed; margin: 0; font-size: .75rem }
.glccl table.weights, .glccl table.weights tr { border: 0 }
.glccl table.weights :is(th, td) { border: 1px solid #8883; padding: 0; height: 1.15rem; line-height: 1 }
.glccl table.weights td { cursor: pointer }
.glccl table.weights th { width: 5rem; border: 0; font-weight: normal; text-align: left;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.glccl table.weights .sentence td { height: 3rem; vertical-align: bottom; border-width: 0 0 1px }
.glccl table.weights .sentence div { background: #9aa; min-height: 2px; margin: 0 1px }
.glccl table.weights .sentence .moment div { background: #e65a2e }
.glccl table.weights td.now { box-shadow: inset 2px 0 #48f, inset -2px 0 #48f }
</style>"""
# While a video plays, marks the frame of its table that is nearest.
_FOLLOW = (
    "const rows = [...this.closest('article').querySelectorAll('tr')], "
    "far = [...rows[0].querySelectorAll('td')].map(cell => Math.abs(cell.dataset.time - this.currentTime)), "
    "now = far.indexOf(Math.min(...far)); "
    "rows.forEach(row => row.querySelectorAll('td').forEach((cell, i) => cell.classList.toggle('now', i == now)))"
)


@dataclass
class Found:
    """One result, as the page shows it.

    Args:
        path: of the video file.
        name: shown above it.
        score: logit.
        start, end: seconds of the best moment.
        times: [n] seconds of the frames that the model saw.
        weights: [n], how much each counts for the sentence; they sum to 1.
        words: every word of the query with its own weights [n].
    """

    path: str
    name: str
    score: float
    start: float
    end: float
    times: np.ndarray
    weights: np.ndarray
    words: list[tuple[str, np.ndarray]]


class Searcher(Protocol):
    """What the page needs of a collection of videos."""

    def search(self, query: str, k: int) -> list[Found]:
        """The k best videos, best first."""


class FolderSearcher:
    """Videos that were encoded with a pipeline."""

    def __init__(self, pipe: TextVideoRetrievalPipeline, index: IndexedVideos):
        self.pipe, self.videos = pipe, index

    def search(self, query: str, k: int) -> list[Found]:
        """The k best videos, best first; the ids of the index are paths."""
        pipe = self.pipe
        text = pipe.forward(pipe.preprocess({"text": [query]}))
        found = []
        for result in pipe(query, videos=self.videos, top_k=k, moments=True):
            video = pipe.select(self.videos, [result["index"]])
            times = video.timestamps[0].numpy()
            known = ~np.isnan(times)
            with torch.no_grad():
                weights = pipe.model.frame_weights(text, video.features)
            found.append(
                Found(
                    path=result["id"],
                    name=Path(result["id"]).name,
                    score=result["score"],
                    start=result["start"],
                    end=result["end"],
                    times=times[known],
                    weights=weights.sentence[0, 0].float().cpu().numpy()[known],
                    words=word_weights(pipe.processor, query, weights.words[0, 0].float().cpu().numpy()[:, known]),
                )
            )
        return found


class IndexSearcher:
    """A [`modeling_glccl.search.VideoIndex`], or what has its `search`, `model` and `processor`."""

    def __init__(self, index: Any):
        self.index = index

    def search(self, query: str, k: int) -> list[Found]:
        """The k best videos, best first. The clips shown are decoded again, for the weights of the words."""
        return [
            Found(
                path=result.path,
                name=Path(result.path).name,
                score=result.score,
                start=result.moment.start,
                end=result.moment.end,
                times=result.frame_times,
                weights=result.frame_weights,
                words=self._words(query, result),
            )
            for result in self.index.search(query, k, moments=True)
        ]

    @torch.no_grad()
    def _words(self, query: str, result: Any) -> list[tuple[str, np.ndarray]]:
        model, processor = self.index.model, self.index.processor
        whole = result.start == 0 and result.end >= result.duration
        clip = {} if whole else {"start": result.start, "end": result.end}
        try:
            inputs = processor(text=[query], videos=[result.path], **clip).to(model.device)
        except ValueError:  # the file has gone or changed; what the index knows of it is shown all the same
            return []
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
        video: GLCCLVideoFeatures = model.get_video_features(
            inputs["pixel_values_videos"], inputs["padding_mask_videos"]
        )
        weights = model.frame_weights(text, video).words[0, 0].float().cpu().numpy()
        return word_weights(processor, query, weights[:, : len(result.frame_times)])


def word_weights(processor: Any, query: str, weights: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The words of a query, each with the mean weights of its tokens.

    Args:
        processor: tokenised the query.
        query: a sentence.
        weights: [Nw, n] frame weights of the tokens, BOS and EOS included.
    """
    ids = processor(text=[query])["input_ids"][0].tolist()
    ids = ids[1 : ids.index(processor.tokenizer.eos_token_id)]
    words, first = [], 0
    for last, token in enumerate(processor.tokenizer.convert_ids_to_tokens(ids)):
        if token.endswith("</w>") or last == len(ids) - 1:
            name = processor.tokenizer.decode(ids[first : last + 1]).strip()
            words.append((name, weights[first + 1 : last + 2].mean(axis=0)))
            first = last + 1
    return words


def results_html(found: Iterable[Found]) -> str:
    """The results as HTML: players, and tables of the weights of frames for sentence and words; a click seeks."""
    articles = "".join(map(_article, found))
    return f'{_STYLE}<div class="glccl">{articles}</div>' if articles else "There is no video yet: upload one."


def _article(found: Found) -> str:
    source = f"gradio_api/file={quote(str(found.path))}#t={found.start:.2f},{found.end:.2f}"
    place = f"score {found.score:.2f}, best moment {found.start:.1f} to {found.end:.1f} s"
    bars = "".join(
        _cell(
            "sentence",
            time,
            weight,
            f'class="{"moment" if found.start <= time <= found.end else ""}"',
            f'<div style="height:{3 * weight / found.weights.max():.2f}rem"></div>',
        )
        for time, weight in zip(found.times, found.weights, strict=True)
    )
    rows = "".join(
        _word_row(word, weights, found.times) for word, weights in found.words if any(map(str.isalnum, word))
    )
    return (
        f'<article><video src="{html.escape(source)}" autoplay muted playsinline controls ontimeupdate="{_FOLLOW}">'
        f"</video><h3>{html.escape(found.name)}</h3><p>{place}</p>"
        f'<table class="weights"><tr class="sentence"><th>sentence</th>{bars}</tr>{rows}</table></article>'
    )


def _word_row(word: str, weights: np.ndarray, times: np.ndarray) -> str:
    cells = "".join(
        _cell(word, time, weight, f'style="background:rgba(230,90,46,{weight / max(weights.max(), 1e-6):.2f})"')
        for time, weight in zip(times, weights, strict=True)
    )
    return f'<tr><th title="{html.escape(word)}">{html.escape(word)}</th>{cells}</tr>'


def _cell(word: str, time: float, weight: float, attribute: str, content: str = "") -> str:
    """A frame of the table; a click goes there in the video."""
    seek = f"this.closest('article').querySelector('video').currentTime={time:.2f}"
    title = f"{html.escape(word)} at {time:.1f} s: {100 * weight:.0f} %"
    return f'<td title="{title}" data-time="{time:.2f}" onclick="{seek}" {attribute}>{content}</td>'


def build_app(
    searcher: Searcher,
    pipe: TextVideoRetrievalPipeline,
    *,
    examples: Sequence[str] = (),
    title: str = "Video search with GLCCL",
) -> gr.Blocks:
    """The page.

    Args:
        searcher: the videos that are there from the start.
        pipe: encodes the videos that a visitor adds, which only this visitor finds; of the same model.
        examples: queries to click on; the page opens with the results of the first.
        title: of the page.
    """
    served: set[str] = set()

    def serve_files(found: list[Found]) -> None:
        # Files become readable over the network one by one, when they are found: never a folder.
        new = {result.path for result in found} - served
        gr.set_static_paths(sorted(new))
        served.update(new)

    def search(query: str, added: list[IndexedVideos]) -> tuple[str, str]:
        if not query.strip():
            return "Type what happens in the video.", ""
        try:
            found = searcher.search(query, RESULTS)
            for index in added:
                found += FolderSearcher(pipe, index).search(query, RESULTS)
        except ValueError as error:
            return _message(error), ""
        found = sorted(found, key=lambda result: -result.score)[:RESULTS]
        serve_files(found)
        return "", results_html(found)

    def add(files: list[str] | None, added: list[IndexedVideos]) -> tuple[str, list[IndexedVideos]]:
        known = {video_id for index in added for video_id in index.ids}
        lines = []
        for file in files or []:
            if file in known:
                continue
            name = Path(file).name
            try:
                added = [*added, pipe.index([file])]
                lines.append(f"{name} is searched now.")
            except ValueError as error:
                lines.append(_message(error).replace(file, name))
        # What was taken out of the list is no longer searched.
        added = [index for index in added if index.ids[0] in (files or [])]
        return "  \n".join(lines), added

    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        added = gr.State([])
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
            event(search, [query, added], [message, results], api_name="search")
        upload.change(add, [upload, added], [message, added], api_name=False)
    return blocks


def open_searcher(
    index: str | Path | None = None, checkpoint: str | None = None, videos: str | Path | None = None
) -> tuple[Searcher, TextVideoRetrievalPipeline]:
    """What [`build_app`] takes, of an index (`glccl index`), or of a checkpoint and a folder of videos.

    Raises:
        ValueError: neither the one nor the other, or a video that cannot be read.
        FileNotFoundError: no such index or folder, or a folder without videos.
    """
    if index is not None:
        from .search import VideoIndex

        opened = VideoIndex.open(index)
        pipe = TextVideoRetrievalPipeline(opened.model, processor=opened.processor, device=opened.model.device)
        return IndexSearcher(opened), pipe
    if checkpoint is None or videos is None:
        raise ValueError("which videos? Pass --index, or a checkpoint and --videos")
    model, processor = load_checkpoint(checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = TextVideoRetrievalPipeline(model.to(device), processor=processor, device=device)
    return FolderSearcher(pipe, pipe.index(find_videos(videos), progress=True)), pipe


def find_videos(folder: str | Path) -> list[str]:
    """Absolute paths of the videos below a folder. Raises FileNotFoundError if there is none."""
    found = sorted(str(file.absolute()) for file in Path(folder).rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{folder} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))})")
    return found


def _message(error: Exception) -> str:
    return f"**This did not work:** {html.escape(str(error))}"


def launch(blocks: gr.Blocks, **options: Any) -> Any:
    """Starts the page: no analytics, nothing fetched from elsewhere, uploads of at most 200 MB."""
    settings = {"max_file_size": "200mb", "show_error": True, "footer_links": [], "ssr_mode": False}
    return blocks.launch(**settings | options)
