"""The study of the CSC loss on tiny data, and the numbers that it reports."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from benchmark_modules import import_benchmark
from training_runs import ENCODER, TINY

from modeling_glccl.training.pretrain_clip import ClipRecipe, pretrain_clip

csc = import_benchmark("csc")


@pytest.mark.slow
def test_it_trains_each_run_once_and_reports(tmp_path, monkeypatch, capsys):
    options = TINY["data"]["options"]
    towers = {"text_config": ENCODER, "vision_config": {**ENCODER, "patch_size": 16}, "projection_dim": 32}
    clip = ClipRecipe(str(tmp_path / "clip"), str(tmp_path / "data"), options, towers, epochs=1, batch_size=16)
    pretrain_clip(clip)
    config = {"max_words": 40, "max_frames": 4, "temporal_num_hidden_layers": 1, "temporal_num_attention_heads": 2}
    settings = {"data.options": options, "model.config": config, "data.processor": {"size": 32, "crop_size": 32}}
    settings = [f"{key}={yaml.safe_dump(value, default_flow_style=True).strip()}" for key, value in settings.items()]
    common = [clip.output_dir, clip.data_dir, str(tmp_path / "out")]
    command = [*common, "--seeds", "0", "1", "--steps", "3", "--set", "train.total_batch_size=4", *settings]
    csc.main([*command, "--eta", "0", "0.5"])
    csc.main([*command, "--eta", "0.5", "--variants", "hard", "paper", "--batches", "twins"])
    assert len(list((tmp_path / "out").glob("*.json"))) == 8
    capsys.readouterr()
    csc.main([*command, "--eta", "0", "0.5"])
    assert ".json" not in capsys.readouterr().out  # nothing is trained twice
    monkeypatch.setattr(csc, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(csc, "PICTURE", tmp_path / "csc.png")
    csc.main([*common, "--report-only"])
    runs = pd.concat([pd.read_csv(file) for file in (tmp_path / "results").glob("csc_runs_*.csv")])
    assert sorted(runs["seed"]) == [0] * 4 + [1] * 4
    one = json.loads((tmp_path / "out" / "random-paper-0.5-0.json").read_text())
    assert sum(one[name] for name in csc.DECILES) == pytest.approx(1)
    assert (tmp_path / "csc.png").stat().st_size > 1000


def test_gains_are_paired_by_seed():
    rows = [("paper", 0.0, seed, 30 + 10 * seed) for seed in range(3)]
    rows += [("paper", 0.5, seed, 31 + 10 * seed) for seed in range(3)]
    runs = pd.DataFrame([{"batches": "random", "variant": v, "eta": e, "seed": s, "R": r} for v, e, s, r in rows])
    table = csc.summarize(runs).set_index("eta")
    assert table["R"].tolist() == [40, 41]
    assert table.loc[0.0, "R ±"] == pytest.approx(4.30 * 10 / 3**0.5)
    assert (table.loc[0.5, "R gain"], table.loc[0.5, "R gain ±"]) == (1, 0)


def test_analysis_of_scores_that_agree_but_for_an_offset():
    scores = np.random.default_rng(0).normal(size=(4, 4)) + 5 * np.eye(4)
    four = scores + np.array([0, 0, 0, 2.0])[:, None, None]
    values = csc.analyse(four, 1.0, np.zeros(4, int))
    assert values["variance ratio"] == pytest.approx(1)
    assert values["offsets' share"] == pytest.approx(1)
    assert [values[name] for name in csc.DECILES[:2]] == pytest.approx([2 / 12, 2 / 12])
    assert values["t2v R@1"] == values["video_word alone"] == 100
    assert values["NLL, best temperature"] <= values["NLL"]
