"""Draws examples of the shapes benchmark into one picture."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .render import render_frames, render_still
from .sampler import STILLS_PER_GROUP, sample_clips, sample_still
from .world import DURATION, NUM_FRAMES, relevant_frames

_CELL = 84
_GAP = 4
_LINE = 20
_FRAMES = 12


def draw_examples(seed: int = 0, image_size: int = 64) -> Image.Image:
    """Four twins of the test split as strips of 12 frames, those that the caption is about underlined, and stills."""
    sampled = (np.arange(_FRAMES) + 0.5) / _FRAMES
    twins = sample_clips("test", 4, seed)
    strip_height = _LINE + _CELL + 4 * _GAP
    width = _FRAMES * (_CELL + _GAP) + _GAP
    canvas = Image.new("RGB", (width, len(twins) * strip_height + 2 * _LINE + _CELL + 5 * _LINE), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(15)
    small = ImageFont.load_default(12)

    def paste(frame: np.ndarray, column: int, top: int) -> int:
        left = _GAP + column * (_CELL + _GAP)
        canvas.paste(Image.fromarray(frame).resize((_CELL, _CELL), Image.Resampling.LANCZOS), (left, top))
        return left

    for number, clip in enumerate(twins):
        top = number * strip_height
        draw.text((_GAP, top), f"“{clip.caption}”", "black", font)
        frames = render_frames(np.random.default_rng([seed, number]), clip.scene, clip.events, image_size)
        relevant = relevant_frames(sampled * DURATION, clip.events, clip.caption_events)
        for column, index in enumerate((sampled * NUM_FRAMES).astype(int)):
            left = paste(frames[index], column, top + _LINE)
            if relevant[column]:
                bottom = top + _LINE + _CELL
                draw.rectangle([left, bottom + 1, left + _CELL - 1, bottom + _GAP], "#2a9d4a")

    top = len(twins) * strip_height
    draw.text((_GAP, top), "stills and their phrases", "black", font)
    for column in range(_FRAMES):
        group, member = divmod(column, _FRAMES // 2)
        still = sample_still(2 * group * STILLS_PER_GROUP + member, seed)
        rng = np.random.default_rng([seed, column])
        left = paste(render_still(rng, still, image_size), column, top + _LINE)
        draw.multiline_text((left, top + _LINE + _CELL), textwrap.fill(still.phrase, 13), "black", small, spacing=1)
    return canvas
