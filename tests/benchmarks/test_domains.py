"""The cross-domain benchmark and the efficiency of heads, on tiny data."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from models import tiny_config, tiny_video
from paths import REPOSITORY
from torch import nn

from benchmarks import domains, efficiency
from modeling_glccl import GLCCLModel
from modeling_glccl.features_glccl import GLCCLVideoFeatures
from modeling_glccl.peers import HEADS

RESULTS = REPOSITORY / "benchmarks" / "results"
HARDWARE = "amd-epyc-avx2-2cores"
TINY = {"num_train": 32, "num_test": 12, "num_validation": 0, "num_stills": 64}


def test_stored_features_give_the_frames_that_pixels_give():
    config = tiny_config()
    vision = config.clip_config.vision_config
    vision.hidden_size, vision.intermediate_size = 24, 48  # a multiple of the three channels
    torch.manual_seed(0)
    model: Any = GLCCLModel(config).eval()
    pixels = tiny_video([4, 2])
    projection = model.clip.visual_projection
    with torch.no_grad():
        expected = model.get_video_features(**pixels)
        model.clip.visual_projection = nn.Identity()
        temporal, model.temporal = model.temporal, None
        stored = model.get_video_features(**pixels)
        model.clip.visual_projection, model.temporal = projection, temporal
        domains.read_stored(model)
        found = model.get_video_features(domains.as_pixels(stored), stored.frame_mask)
    torch.testing.assert_close(found.frames, expected.frames, rtol=0, atol=1e-5)
    assert found.frame_mask.tolist() == expected.frame_mask.tolist()
    trained = {name.split(".")[0] for name, weight in model.clip.named_parameters() if weight.requires_grad}
    assert trained == {"logit_scale", "text_model", "text_projection", "visual_projection"}


def test_lengths_are_those_of_the_captions_videos():
    class Fake:
        def get_text_features(self, **_):
            return None

        def get_video_features(self, *_):
            return None

        def similarity(self, *_):
            scores = torch.eye(4)
            scores[3] = torch.tensor([1.0, 0, 0, 0])
            return scores

    video = GLCCLVideoFeatures(frames=torch.zeros(4, 2, 3), frame_mask=torch.ones(4, 2).bool())
    split = domains.Split(list("abcd"), [0] * 4, np.array([4.5, 12.0, 25.0, 39.0]), video)
    model: Any = Fake()
    processor: Any = lambda text: {}  # noqa: E731
    found = domains.test(model, processor, split)
    assert (found["t2v R@1"], found["v2t R@1"]) == (75, 50)
    assert [found[name] for name in domains.BINS] == [100, 100, 50]


def test_summary_is_the_mean_over_seeds_with_its_interval():
    rows = [
        {"model": "GLCCL", "seed": seed, "world": world, "frames": frames, "t2v R@1": recall, "v2t R@1": 10.0}
        for seed, recalls in ((1, (50, 20)), (2, (54, 30)))
        for world, recall in zip((1, 2), recalls, strict=True)
        for frames in ((12,) if world == 1 else (12, 24))
    ]
    (row,) = domains.summarize(pd.DataFrame(rows))
    assert row["seeds"] == 2
    assert (row["t2v R@1 world 1"], row["t2v R@1 world 2"], row["t2v R@1 drop"]) == (52, 25, 27)
    # Student's t of one degree of freedom is 12.706; the deviation of 50 and 54 is 2 sqrt(2), its error 2.
    assert row["t2v R@1 world 1 ±"] == pytest.approx(2 * 12.706, abs=0.01)
    assert row["t2v R@1 drop ±"] == pytest.approx(3 * 12.706, abs=0.02)
    assert row["t2v R@1 kept %"] == 48.1


def test_every_head_is_measured_on_the_same_sizes():
    rows = efficiency.measure_heads(6, (3, 5), 4, 32)
    assert [(row["head"], row["words"]) for row in rows] == [(head, words) for head in HEADS for words in (3, 5)]
    pooled = next(row for row in rows if row["head"] == "clip4clip_meanp")
    assert pooled["GMAC"] == float(f"{6 * 6 * 32 / 1e9:.4g}")


def test_multiply_adds_of_x_pool_are_those_counted_by_hand():
    texts = videos = 6
    frames, width = 4, 32
    row = next(row for row in efficiency.measure_heads(texts, (3,), frames, width) if row["head"] == "xpool")
    once = texts * width**2 + 3 * videos * frames * width**2  # the query; key, value and output
    pairs = texts * videos * (2 * frames * width + width**2)  # attention, weighted sum, residual
    assert row["GMAC"] == float(f"{(once + pairs) / 1e9:.4g}")


def test_a_user_waits_for_encoding_and_scoring():
    steps = efficiency.measure_steps(tiny_config(max_words=16, max_frames=12), 5, 1)
    assert [row["step"].split()[0] for row in steps] == ["encode", "encode", "score"]


@pytest.mark.skipif(not list(RESULTS.glob("domains_runs_*")), reason="no results of the benchmark")
def test_the_committed_tables_are_those_of_the_committed_runs():
    runs = pd.read_csv(RESULTS / f"domains_runs_{HARDWARE}.csv")
    for name, rows in (("domains", domains.summarize(runs)), ("domains_length", domains.length_accuracy(runs))):
        committed = pd.read_csv(RESULTS / f"{name}_{HARDWARE}.csv")
        pd.testing.assert_frame_equal(pd.DataFrame(rows), committed, check_dtype=False, atol=0.02, obj=name)


@pytest.mark.slow
def test_the_benchmark_runs_from_nothing_and_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(domains, "HEADS", {"GLCCL": "glccl", "X-Pool": "xpool"})
    monkeypatch.setattr(domains, "MORE_FRAMES", (24,))
    changes = ["epochs=1", *(f"options.{name}={value}" for name, value in TINY.items())]
    clip = domains.train_clip(tmp_path / "clip", tmp_path / "data", changes)
    runs = domains.run(tmp_path, clip, [1], TINY, 1)
    assert len(runs) == 2 + 2 * 3
    assert not np.isnan(runs[["t2v R@1", "v2t R@1"]].to_numpy()).any()
    monkeypatch.delattr(domains, "train_head")
    pd.testing.assert_frame_equal(domains.run(tmp_path, clip, [1], TINY, 1), runs)
    assert len(domains.length_accuracy(runs)) == 2 * 2 * len(domains.BINS)
    domains.plot_accuracy(domains.length_accuracy(runs))
