r"""Draws the moments that a search returns: frame weights over time, the span read from them, the true one if known.

    python benchmarks/moments.py --model runs/shapes/model/best
    python benchmarks/moments.py --model runs/shapes/model/best --clip street.mp4 "a red car" --clip a.webm "a flower"

Takes test videos of the shapes benchmark whose captions name events that follow each other, and clips of your own,
each with its sentence. Your clips are shown as 4 x 4 patches of colour for each frame that the model saw; `--stills`
shows the frames, if you may. Writes docs/images/moments.png.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import errors

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from modeling_glccl import GLCCLModel, GLCCLProcessor
from modeling_glccl.data import load_benchmark
from modeling_glccl.search import SearchResult, VideoIndex
from modeling_glccl.search.rendering import clip_frames

_RED, _GREEN, _BLUE = "#d33333", "#2a9d4a", "#3399cc"


class Case(NamedTuple):
    """A video, a sentence, and the true span in seconds if it is known."""

    path: str
    query: str
    truth: tuple[float, float] | None
    stills: bool


def shapes_cases(data_dir: Path, count: int) -> list[Case]:
    """Test videos at equal distances among those whose caption is about one span that leaves half of the video out."""
    rows: Any = load_benchmark("shapes", data_dir=data_dir, split="test", num_train=0, num_validation=0)
    cases = []
    for row in rows:
        named = sorted(row["caption_events"])
        truth = row["events"][named[0]]["start"], row["events"][named[-1]]["end"]
        whole = max(event["end"] for event in row["events"])
        if named[-1] - named[0] == len(named) - 1 and truth[1] - truth[0] <= 0.6 * whole:
            cases.append(Case(row["video"]["path"], row["caption"], truth, True))
    return cases[:: len(cases) // count][:count]


def draw(cases: list[Case], results: list[SearchResult], processor: GLCCLProcessor) -> Figure:
    """Two bands for each case: the frames, and below them their weights. The results have moments."""
    figure = plt.figure(figsize=(9, 1.9 * len(cases)), layout="constrained")
    parts = figure.subfigures(len(cases), 1, squeeze=False)[:, 0]
    for part, case, result in zip(parts, cases, results, strict=True):
        above, below = part.subplots(2, 1, sharex=True, height_ratios=(3, 4))
        moment, times, weights = result.moment, result.frame_times, result.frame_weights
        assert moment is not None
        assert times is not None
        assert weights is not None
        borders = np.concatenate([[result.start], (times[1:] + times[:-1]) / 2, [result.end]])
        for image, left, right in zip(clip_frames(result, processor), borders, borders[1:], strict=False):
            shown = image if case.stills else image.resize((4, 4), Image.Resampling.BOX)
            above.imshow(shown, extent=(left, right, 0, 1), aspect="auto", interpolation="nearest")
        above.set(ylim=(0, 1), yticks=[], xlim=(result.start, result.end))
        above.set_title(f"“{case.query}”, {Path(result.path).name}", fontsize=9, loc="left")
        below.bar(borders[:-1], weights, np.diff(borders), align="edge", color=_BLUE, edgecolor="white")
        below.axhline(weights.mean() / 2, color="0.4", linestyle=":", linewidth=1)
        below.axvspan(moment.start, moment.end, color=_RED, alpha=0.15)
        for edge in moment[:2]:
            below.axvline(edge, color=_RED, linewidth=2)
        if case.truth:
            below.plot(case.truth, [1.12 * weights.max()] * 2, color=_GREEN, linewidth=4, solid_capstyle="butt")
        below.set(ylim=(0, 1.2 * weights.max()), ylabel="weight")
        below.tick_params(labelsize=8)
        for axes in (above, below):
            axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    below.set_xlabel("seconds")
    return figure


def main() -> None:
    """Indexes the videos, searches each with its sentence, and draws what comes back."""
    parser = argparse.ArgumentParser(description="Draws the moments that a search returns.")
    parser.add_argument("--model", required=True, help="checkpoint")
    parser.add_argument("--shapes", type=int, default=2, help="how many test videos of the shapes benchmark")
    parser.add_argument("--data-dir", type=Path, help="of the shapes benchmark (default: rendered anew)")
    parser.add_argument("--clip", nargs=2, action="append", default=[], metavar=("FILE", "SENTENCE"))
    parser.add_argument("--stills", action="store_true", help="show the frames of --clip, not only patches of colour")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "images" / "moments.png")
    options = parser.parse_args()
    model, processor = GLCCLModel.from_pretrained(options.model), GLCCLProcessor.from_pretrained(options.model)
    with tempfile.TemporaryDirectory() as folder:
        cases = shapes_cases(options.data_dir or Path(folder), options.shapes) if options.shapes else []
        cases += [Case(path, sentence, None, options.stills) for path, sentence in options.clip]
        index = VideoIndex.create(Path(folder) / "moments.index", model, processor)
        index.add({str(number): case.path for number, case in enumerate(cases)})
        found = index.search_batch([case.query for case in cases], k=len(cases), moments=True)
        results = [
            next(result for result in results if result.video_id == str(number))
            for number, results in enumerate(found)
        ]
        for case, result in zip(cases, results, strict=True):
            start, end, _ = result.moment or (np.nan,) * 3
            print(f"{start:.1f}-{end:.1f} s, true {case.truth}: {case.query}, {case.path}")
        draw(cases, results, processor).savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
