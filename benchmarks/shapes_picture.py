"""Draws examples of the shapes benchmark into one picture.

python benchmarks/shapes_picture.py docs/images/shapes.png
"""

import argparse
import textwrap
from pathlib import Path

import errors

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modeling_glccl.data.shapes.render import render_frames, render_still
from modeling_glccl.data.shapes.sampler import STILLS_PER_GROUP, sample_clips, sample_still
from modeling_glccl.data.shapes.world import DURATION, NUM_FRAMES, relevant_frames

# Pixels of the picture: a frame, a gap, a line of text. Frames of a strip.
_CELL, _GAP, _LINE = 84, 4, 20
_FRAMES = 12


def draw_examples(seed: int) -> Image.Image:
    """Four twins of the test split as strips of 12 frames, those that the caption is about underlined, and stills."""
    sampled = (np.arange(_FRAMES) + 0.5) / _FRAMES
    twins = sample_clips("test", 4, seed)
    strip_height = _LINE + _CELL + 4 * _GAP
    stills_top = len(twins) * strip_height
    canvas = Image.new("RGB", (_FRAMES * (_CELL + _GAP) + _GAP, stills_top + 7 * _LINE + _CELL), "white")
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)

    def paste(frame: np.ndarray, column: int, top: int) -> int:
        left = _GAP + column * (_CELL + _GAP)
        canvas.paste(Image.fromarray(frame).resize((_CELL, _CELL), Image.Resampling.LANCZOS), (left, top))
        return left

    for number, clip in enumerate(twins):
        top = number * strip_height
        draw.text((_GAP, top), f"“{clip.caption}”", "black", font)
        frames = render_frames(np.random.default_rng([seed, number]), clip.scene, clip.events, 64)
        relevant = relevant_frames(sampled * DURATION, clip.events, clip.caption_events)
        for column, index in enumerate((sampled * NUM_FRAMES).astype(int)):
            left = paste(frames[index], column, top + _LINE)
            if relevant[column]:
                bottom = top + _LINE + _CELL
                draw.rectangle([left, bottom + 1, left + _CELL - 1, bottom + _GAP], "#2a9d4a")

    draw.text((_GAP, stills_top), "stills and their phrases", "black", font)
    for column in range(_FRAMES):
        group, member = divmod(column, _FRAMES // 2)
        still = sample_still(2 * group * STILLS_PER_GROUP + member, seed)
        frame = render_still(np.random.default_rng([seed, column]), still, 64)
        place = paste(frame, column, stills_top + _LINE), stills_top + _LINE + _CELL
        draw.multiline_text(place, textwrap.fill(still.phrase, 13), "black", small, spacing=1)
    return canvas


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draws examples of the shapes benchmark")
    parser.add_argument("file", type=Path, help="a .png file")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw_examples(arguments.seed).save(arguments.file)


if __name__ == "__main__":
    main()
