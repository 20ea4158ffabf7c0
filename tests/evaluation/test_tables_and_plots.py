"""Tables and pictures of an evaluation."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from rich.console import Console

from modeling_glccl.evaluation.retrieved_videos import RetrievedVideo
from modeling_glccl.evaluation.tables_and_plots import (
    CORRECT,
    DESCRIBED,
    OTHER,
    metrics_table,
    plot_cmc,
    plot_recalls,
    plot_retrievals,
    retrieval_tables,
)

METRICS = {"R@1": 62.5, "R@5": 87.5, "R@10": 100.0, "MdR": 1.0, "MnR": 2.3}


def retrieved(video_id: str, correct: bool, frames: int = 4) -> RetrievedVideo:
    return RetrievedVideo(
        video_id=video_id,
        score=12.34,
        frames=np.full((frames, 8, 8, 3), 128, np.uint8),
        frame_weights=np.array([0.1, 0.6, 0.2, 0.1], "float32")[:frames],
        correct=correct,
        described=np.array([False, True, True, False]) if correct else None,
    )


QUERIES = {
    "a red star spins": [retrieved("v7", False), retrieved("v1", True), retrieved("v2", False)],
    "a ring bounces": [retrieved("v3", True)],
}


def printed(table) -> str:
    with (console := Console(width=160)).capture() as capture:
        console.print(table)
    return capture.get()


def test_strips_and_weights_mark_the_ground_truth(tmp_path):
    figure = plot_retrievals(QUERIES)
    strips, weights = figure.axes[::2], figure.axes[1::2]
    assert len(strips) == len(weights) == 4
    right = [strip.spines["left"].get_edgecolor()[:3] == to_rgb(CORRECT) for strip in strips]
    assert right == [False, True, False, True]
    assert [bar.get_height() for bar in weights[1].patches] == pytest.approx([0.1, 0.6, 0.2, 0.1])
    colours = [bar.get_facecolor()[:3] for bar in weights[1].patches]
    assert colours == [to_rgb(OTHER), to_rgb(DESCRIBED), to_rgb(DESCRIBED), to_rgb(OTHER)]
    assert {bar.get_facecolor()[:3] for bar in weights[0].patches} == {to_rgb(OTHER)}
    figure.savefig(tmp_path / "retrieved.png")
    assert (tmp_path / "retrieved.png").stat().st_size > 0


def test_videos_may_have_fewer_frames_than_others():
    short = retrieved("v9", False, frames=2)
    figure = plot_retrievals({"a ring": [retrieved("v3", True), short]})
    assert len(figure.axes[3].patches) == 2
    # Frames keep their size: the strip of two is half as wide as that of four.
    assert figure.axes[2].get_xlim() == figure.axes[0].get_xlim()


def test_recall_bars_show_every_model_in_both_directions():
    better = {**METRICS, "R@1": 75.0}
    figure = plot_recalls({"GLCCL": {"t2v": better, "v2t": METRICS}, "mean pooling": {"t2v": METRICS, "v2t": METRICS}})
    for axes, first in zip(figure.axes, (75.0, 62.5), strict=True):
        assert [bar.get_height() for bar in axes.patches] == [first, 87.5, 100.0, 62.5, 87.5, 100.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["GLCCL", "mean pooling"]


def test_metrics_table_leaves_unknown_values_out():
    text = printed(
        metrics_table({"GLCCL": {"t2v": METRICS, "v2t": METRICS}, "oracle": {"t2v": {"R@1": 24.0}}}, "test")
    )
    assert "62.5" in text
    (oracle,) = (line for line in text.splitlines() if "oracle" in line)
    assert "24.0" in oracle
    assert sum(character.isdigit() for character in oracle) == 3


def test_metrics_table_shows_intervals_below_the_values():
    intervals = {"GLCCL": {"t2v": {metric: (value - 4.5, value + 4) for metric, value in METRICS.items()}}}
    text = printed(metrics_table({"GLCCL": {"t2v": METRICS}}, "test", intervals))
    assert text.index("62.5") < text.index("from") < text.index("58.0") < text.index("to ") < text.index("66.5")


def test_cmc_curves_of_every_model_in_the_directions_it_has(tmp_path):
    plain, other = np.array([50.0, 75.0, 100.0]), np.array([25.0, 50.0, 100.0])
    figure = plot_cmc({"GLCCL": {"t2v": plain, "v2t": plain[:2]}, "GLCCL + QB-Norm": {"t2v": other}})
    t2v, v2t = figure.axes
    assert [line.get_ydata().tolist() for line in t2v.lines] == [plain.tolist(), other.tolist()]
    assert [line.get_xdata().tolist() for line in v2t.lines] == [[1, 2]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["GLCCL", "GLCCL + QB-Norm"]
    figure.savefig(tmp_path / "cmc.png")
    assert (tmp_path / "cmc.png").stat().st_size > 0


def test_retrieval_tables_mark_the_described_video():
    text = printed(retrieval_tables(QUERIES))
    assert text.count("✓") == 2
    assert text.index("v7") < text.index("v1") < text.index("v2")
