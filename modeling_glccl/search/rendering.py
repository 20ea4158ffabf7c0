"""Search results for people: a table for the terminal, HTML for the web page, and a page that needs no other file."""

import base64
import html
import io
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from string import punctuation
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Column, Table

from ..processing_glccl import GLCCLProcessor
from ..video_decoding_glccl import decode_video
from ..video_files import harmless
from ..video_streams_glccl import VideoDecodeError
from .searcher import SearchResult

_THUMBNAIL = (160, 120)
_SCORES = {"logit": "score", "similarity": "similarity (not GLCCL's)", "combined": "combined score"}
_SCORES |= {"words": "match of words (BM25)", "fused": "fused ranks"}
STYLE = """<style>
.glccl h3 { margin: .4rem 0 .1rem; font-size: 1rem; overflow-wrap: anywhere }
.glccl p { margin: 0 0 .5rem; opacity: .75; font-size: .85rem }
.glccl table.weights { width: 100%; border-collapse: collapse; table-layout: fixed; margin: 0; font-size: .75rem }
.glccl table.weights, .glccl table.weights tr { border: 0 }
.glccl table.weights :is(th, td) { border: 1px solid #8883; padding: 0; height: 1.15rem; line-height: 1 }
.glccl table.weights[onclick] td { cursor: pointer }
.glccl table.weights th { width: 5rem; border: 0; font-weight: normal; text-align: left;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.glccl table.weights .frames td { border: 0; text-align: center; vertical-align: top }
.glccl table.weights .frames img { width: 100%; display: block }
.glccl table.weights .sentence td { height: 3rem; vertical-align: bottom; border-width: 0 0 1px }
.glccl table.weights .sentence div { background: #9aa; min-height: 2px; margin: 0 1px }
.glccl table.weights .sentence .moment div { background: #e65a2e }
.glccl table.weights td.now { box-shadow: inset 2px 0 #48f, inset -2px 0 #48f }
</style>"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{query}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">{style}
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem; padding: 0 1rem; color: #222 }}
article {{ border-top: 1px solid #ddd; padding: 1rem 0 }}
</style></head><body class="glccl">
<h1>{query}</h1>
<p>Bars: how much a frame counts for the sentence; orange: the best moment. Below: the frames that each word is about.
</p>
{articles}
</body></html>
"""


def results_table(query: str, results: Sequence[SearchResult]) -> tuple[Table, str]:
    """Rank, score, video and best moment of every result, and the folder that their paths start from."""
    paths = [result.path for result in results]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = ("rank", _SCORES[results[0].measure], "video", "best moment")
    columns = [Column(name, justify="right", overflow="fold") for name in names]
    columns[2].justify = "left"
    if results[0].confidence is not None:
        columns.insert(2, Column("confidence", justify="right"))
    spoken = any(result.words for result in results)
    if spoken:
        columns += [Column("found by"), Column("said", overflow="fold")]
    table = Table(*columns, title=query, title_justify="left")
    for rank, result in enumerate(results, 1):
        assert result.moment is not None
        start, end, _ = result.moment
        name = harmless(os.path.relpath(result.path, folder))
        confidence = [] if result.confidence is None else [f"{result.confidence:.0%}"]
        said = [result.found_by, result.words.text if result.words else ""] if spoken else []
        table.add_row(str(rank), f"{result.score:.2f}", *confidence, name, f"{clock(start)} - {clock(end)}", *said)
    return table, harmless(folder)


def results_json(results: Sequence[SearchResult]) -> list[dict[str, Any]]:
    """The results as values that JSON can hold; times in seconds."""
    return [
        {
            "rank": rank,
            "score": result.score,
            "measure": result.measure,
            "confidence": result.confidence,
            "video_id": result.video_id,
            "path": result.path,
            "duration": result.duration,
            "date": file_date(result.mtime_ns),
            "clip": [result.start, result.end],
            "moment": result.moment and result.moment._asdict(),
            "found_by": result.found_by,
            "words": result.words and result.words._asdict(),
        }
        for rank, result in enumerate(results, 1)
    ]


def results_html(
    query: str | None, results: Sequence[SearchResult], processor: GLCCLProcessor, title: str | None = None
) -> str:
    """A page with the frames that the model saw of every result, the weights of frames and words, and the moment."""
    articles = [f"<p>{html.escape(line)}</p>" for line in doubts(query, results, processor)]
    for rank, result in enumerate(results, 1):
        assert result.moment is not None
        start, end, _ = result.moment
        link = f"{Path(result.path).as_uri()}#t={start:.1f},{end:.1f}" if result.path.startswith("/") else result.path
        try:
            images, problem = clip_frames(result, processor) if result.frame_times is not None else [], ""
        except VideoDecodeError as error:
            images, problem = [], f"<p>{html.escape(str(error))}</p>"
        articles.append(
            f'<article><h3>{rank}. <a href="{html.escape(link)}">{html.escape(result.path)}</a></h3>'
            f"<p>{html.escape(score_text(result))}, "
            f"best moment {clock(start)} - {clock(end)} of {clock(result.duration)}</p>"
            f"{problem}{weights_table(query, result, processor, images)}</article>"
        )
    if not results:
        articles.append("<p>Nothing found.</p>")
    return _PAGE.format(query=html.escape(title or query or ""), style=STYLE, articles="\n".join(articles))


def weights_table(
    query: str | None,
    result: SearchResult,
    processor: GLCCLProcessor,
    images: Sequence[Image.Image] = (),
    attributes: str = "",
) -> str:
    """An HTML table with a column for each frame: its image, its weight for the sentence, and for each word."""
    times, weights, word_weights = result.frame_times, result.frame_weights, result.word_weights
    if times is None or weights is None:  # of what was found by words alone
        return ""
    assert result.moment is not None
    start, end, _ = result.moment
    moments = ['class="moment"' if start <= time <= end else "" for time in times]
    rows = []
    if images:
        cells = "".join(
            f'<td {moment}><img alt="" src="{_data_uri(image)}">{clock(time)} &middot; {100 * weight:.0f}%</td>'
            for image, moment, time, weight in zip(images, moments, times, weights, strict=False)
        )
        rows.append(f'<tr class="frames"><th></th>{cells}</tr>')
    bars = [f'<div style="height:{height:.2f}rem"></div>' for height in 3 * weights / weights.max()]
    cells = map(_cell, ["sentence"] * len(times), times, weights, moments, bars)
    rows.append(f'<tr class="sentence"><th>sentence</th>{"".join(cells)}</tr>')
    words = [] if query is None or word_weights is None else group_words(query, word_weights, processor)
    for word, weights in words:
        if any(map(str.isalnum, word)):
            shades = [
                f'style="background:rgba(230,90,46,{shade:.2f})"' for shade in weights / max(weights.max(), 1e-6)
            ]
            cells = "".join(map(_cell, [word] * len(times), times, weights, shades))
            rows.append(f'<tr><th title="{html.escape(word)}">{html.escape(word)}</th>{cells}</tr>')
    return f'<table class="weights" {attributes}>{"".join(rows)}</table>'


def _cell(word: str, time: float, weight: float, attribute: str, content: str = "") -> str:
    title = f"{html.escape(word)} at {time:.1f} s: {100 * weight:.0f} %"
    return f'<td title="{title}" data-time="{time:.2f}" {attribute}>{content}</td>'


def group_words(query: str, weights: np.ndarray, processor: GLCCLProcessor) -> list[tuple[str, np.ndarray]]:
    """The words of a query, each with the mean weights [n] of its tokens, of which `weights` [Nw, n] are."""
    tokenizer = processor.tokenizer
    ids = processor(text=[query])["input_ids"][0].tolist()
    ids = ids[1 : ids.index(tokenizer.eos_token_id)]
    words, first = [], 0
    for last, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if token.endswith("</w>") or last == len(ids) - 1:
            name = tokenizer.decode(ids[first : last + 1]).strip()
            words.append((name, weights[first + 1 : last + 2].mean(axis=0)))
            first = last + 1
    return words


def clip_frames(result: SearchResult, processor: GLCCLProcessor) -> list[Image.Image]:
    """Thumbnails of the frames of a result's clip that the model saw, read from the video file again.

    Raises:
        VideoDecodeError: the file is no longer there, or cannot be read.
    """
    settings = processor.video_processor
    whole = result.start == 0 and result.end >= result.duration
    start, end = (None, None) if whole else (result.start, None if result.end >= result.duration else result.end)
    frames = decode_video(
        result.path, settings.max_frames, start, end, settings.sampling, transform=_thumbnail
    ).frames  # whole ones of 4K would be 450 MB
    return [Image.fromarray(frame) for frame in frames]


def doubts(query: str | None, results: Sequence[SearchResult], processor: GLCCLProcessor) -> list[str]:
    """Lines for who searches for what no video shows, or for words of a language that the tokenizer was not made of.

    Such words fall into pieces of less than two letters, or of less than one where a letter is a word (Chinese).
    """
    found, best = [], max((result.confidence or 0 for result in results), default=1)
    if best < 0.5 and results[0].confidence is not None:
        found.append(f"probably nothing fits: no video has a confidence above {best:.0%}")
    words = [word.strip(punctuation) for word in (query or "").split()]
    words = [word for word in words if word and not any(map(str.isdigit, word))]  # digits are tokens of their own
    usual = sum(len(word) + 1 if word >= "\u2e80" else max(1, len(word) / 2) for word in words)
    if sum(len(processor.tokenizer.tokenize(word)) for word in words) > usual:
        found.append("the model hardly knows this language, or these words: its tokenizer takes them apart")
    return found


def score_text(result: SearchResult) -> str:
    """The score of a result and, where there are such, its confidence and what is said."""
    confidence = "" if result.confidence is None else f", confidence {result.confidence:.0%}"
    said = f', found by {result.found_by}: "{result.words.text}"' if result.words else ""
    return f"{_SCORES[result.measure]} {result.score:.2f}{confidence}{said}"


def clock(seconds: float) -> str:
    """1:02:03.4, or 2:03.4 below an hour."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest // 10:02}.{rest % 10}"


def file_date(mtime_ns: int) -> str:
    """When a file was changed, in local time, as ISO 8601 has it."""
    return datetime.fromtimestamp(mtime_ns / 1e9).astimezone().isoformat(timespec="seconds")


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    image = Image.fromarray(frame)
    image.thumbnail(_THUMBNAIL)
    return np.asarray(image)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
