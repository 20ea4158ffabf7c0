"""Search results for people: a table for the terminal, and an HTML page that needs no other file."""

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from ..processing_glccl import GLCCLProcessor
from ..video_decoding_glccl import VideoDecodeError, decode_video
from .searcher import SearchResult

_THUMBNAIL = (160, 120)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{query}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem; padding: 0 1rem; color: #222 }}
article {{ border-top: 1px solid #ddd; padding: 1rem 0 }}
h2 {{ font-size: 1rem; margin: 0 }} p {{ margin: .2rem 0 .6rem; color: #666 }}
ol {{ display: flex; flex-wrap: wrap; gap: 4px; list-style: none; margin: 0; padding: 0 }}
li {{ font-size: .75rem; color: #666; min-width: 5.5rem }}
li img {{ display: block; border: 3px solid transparent }} li.moment img {{ border-color: #d33 }}
li div {{ height: 6px; background: #39c }}
</style></head><body>
<h1>{query}</h1>
<p>Framed in red: the best moment. Blue: how much a frame weighs for the sentence.</p>
{articles}
</body></html>
"""


def results_table(query: str, results: Sequence[SearchResult]) -> tuple[Table, str]:
    """Rank, score, video and best moment of every result, and the folder that their paths start from."""
    paths = [result.path for result in results]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    table = Table(title=query, title_justify="left")
    for name, justify in (("rank", "right"), ("score", "right"), ("video", "left"), ("best moment", "right")):
        table.add_column(name, justify=justify, overflow="fold")
    for rank, result in enumerate(results, 1):
        start, end, _ = result.moment
        name = os.path.relpath(result.path, folder)
        table.add_row(str(rank), f"{result.score:.2f}", name, f"{clock(start)} - {clock(end)}")
    return table, folder


def results_json(results: Sequence[SearchResult]) -> list[dict[str, Any]]:
    """The results as values that JSON can hold; times in seconds."""
    return [
        {
            "rank": rank,
            "score": result.score,
            "video_id": result.video_id,
            "path": result.path,
            "duration": result.duration,
            "clip": [result.start, result.end],
            "moment": {"start": result.moment.start, "end": result.moment.end, "peak": result.moment.peak},
        }
        for rank, result in enumerate(results, 1)
    ]


def results_html(query: str, results: Sequence[SearchResult], processor: GLCCLProcessor) -> str:
    """A page with the frames that the model saw of every result, their weights, and the moment framed."""
    articles = "\n".join(_article(rank, result, processor) for rank, result in enumerate(results, 1))
    return _PAGE.format(query=html.escape(query), articles=articles or "<p>Nothing found: the index is empty.</p>")


def clip_frames(result: SearchResult, processor: GLCCLProcessor) -> list[Image.Image]:
    """The frames of a result's clip that the model saw, read from the video file again.

    Raises:
        VideoDecodeError: the file is no longer there, or cannot be read.
    """
    settings = processor.video_processor
    whole = result.start == 0 and result.end >= result.duration
    start, end = (None, None) if whole else (result.start, None if result.end >= result.duration else result.end)
    frames = decode_video(result.path, settings.max_frames, start, end, settings.sampling).frames
    return [Image.fromarray(frame) for frame in frames]


def clock(seconds: float) -> str:
    """1:02:03.4, or 2:03.4 below an hour."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest // 10:02}.{rest % 10}"


def _article(rank: int, result: SearchResult, processor: GLCCLProcessor) -> str:
    start, end, _ = result.moment
    link = f"{Path(result.path).as_uri()}#t={start:.1f},{end:.1f}" if result.path.startswith("/") else result.path
    try:
        strip = f"<ol>{_strip(result, clip_frames(result, processor))}</ol>"
    except VideoDecodeError as error:
        strip = f"<p>{html.escape(str(error))}</p>"
    return (
        f'<article><h2>{rank}. <a href="{html.escape(link)}">{html.escape(result.path)}</a></h2>'
        f"<p>score {result.score:.2f}, best moment {clock(start)} - {clock(end)} of {clock(result.duration)}</p>"
        f"{strip}</article>"
    )


def _strip(result: SearchResult, frames: Sequence[Image.Image]) -> str:
    scale = np.max(result.frame_weights)
    items = []
    for image, time, weight in zip(frames, result.frame_times, result.frame_weights, strict=False):
        kind = ' class="moment"' if result.moment.start <= time <= result.moment.end else ""
        items.append(
            f'<li{kind}><img alt="frame at {clock(time)}" src="{_data_uri(image)}">'
            f'<div style="width:{100 * weight / scale:.0f}%"></div>{clock(time)} &middot; {100 * weight:.0f}%</li>'
        )
    return "".join(items)


def _data_uri(image: Image.Image) -> str:
    image.thumbnail(_THUMBNAIL)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
