"""A tiny ablation from its grid to its report, and the parts of which it is made."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from paths import REPOSITORY
from training_runs import TINY

from benchmarks.ablation import __main__ as program
from benchmarks.ablation import cost
from benchmarks.ablation.analysis import TrainedModel, average_precision, pair_scores, twin_accuracy
from benchmarks.ablation.cost import measure_cost
from benchmarks.ablation.figures import best_captions
from benchmarks.ablation.grid import load_grid
from benchmarks.ablation.page import RECALLS, Page, collect, comparison, glim_csc, length_cost, spreads
from modeling_glccl.evaluation import EvaluationResult, evaluate
from modeling_glccl.peers import HEADS

ROOT = REPOSITORY
COMMITTED = ROOT / "benchmarks" / "results" / "shapes_ablation_amd-epyc-2cores"
VARIANTS = {
    "GLCCL": {},
    "CSC off": {"model.config.csc_weight": 0},
    "X-Pool": {"model": {"head": "xpool", "config": {"csc_weight": 0}}},
}


def write_grid(folder: Path, **values) -> Path:
    """A grid whose runs take two steps."""
    recipe = {"output_dir": "unused", **TINY, "data": {**TINY["data"], "data_dir": str(folder / "data")}}
    recipe["train"] = {**TINY["train"], "epochs": 1, "max_steps": 2}
    (folder / "base.yaml").write_text(yaml.safe_dump(recipe))
    grid = {
        "output_dir": str(folder / "out"),
        "recipe": "base.yaml",
        "reference": "GLCCL",
        "variants": VARIANTS,
        "seeds": [1, 2],
        "length_variants": ["GLCCL", "X-Pool"],
        "frame_counts": [4, 6, 77],
        "queries": 1,
    } | values
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The path of a grid whose runs are done, in this process."""
    path = write_grid(tmp_path_factory.mktemp("ablation"))
    grid = load_grid(path)
    for run in grid.runs.values():
        program.execute(run)
    return path


@pytest.fixture
def _small_costs(monkeypatch):
    sizes = {"ITEMS": 6, "WORDS": (3, 5), "FRAMES": 4, "CURVE_FRAMES": (4, 8), "CURVE_VIDEOS": 2, "WIDTH": 32}
    for name, value in sizes.items():
        monkeypatch.setattr(cost, name, value)


@pytest.mark.usefixtures("_small_costs")
def test_the_report_holds_every_table_and_figure(finished, capsys):
    assert program.main([str(finished)]) == 0
    assert "6 runs, 6 done before" in capsys.readouterr().out
    folder = finished.parent / "out" / "report"
    page = (folder / "index.html").read_text()
    sources = re.findall(r'src="([^"]*)"', page)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(|<script|<link", page)
    figures = {"cmc", "eta", "scores", "length", "text_to_video", "video_to_text"}
    assert {path.stem for path in folder.glob("*.png")} == figures
    assert len(sources) == len(figures)
    # Every table that is kept of a real grid, with the columns that it has there.
    for path in COMMITTED.glob("*.csv"):
        columns = {re.sub(r"[\d,]+ x [\d,]+, \d+ words", "", name) for name in pd.read_csv(path).columns}
        made = {re.sub(r"[\d,]+ x [\d,]+, \d+ words", "", name) for name in pd.read_csv(folder / path.name).columns}
        # Of this grid no variant switches GLIM off, and none has one seed alone.
        assert columns == made, path.name

    main = pd.read_csv(folder / "main.csv", index_col="model")
    assert list(main.index) == ["GLCCL", "X-Pool"]
    grid = load_grid(finished)
    recalls = [grid.runs["X-Pool", seed].results["test"]["t2v"]["R@5"] for seed in (1, 2)]
    assert main.at["X-Pool", "text-to-video R@5"] == pytest.approx(np.mean(recalls), abs=0.01)
    assert main.at["X-Pool", "text-to-video R@5 std"] == pytest.approx(np.std(recalls, ddof=1), abs=0.01)
    assert len(pd.read_csv(folder / "runs.csv")) == 6
    single = pd.read_csv(folder / "single_scores.csv", index_col="model")
    name = "text-to-video R@1 of one score frame-word"
    recalls = [(grid.runs["CSC off", seed].analysis or {})["values"][name] for seed in (1, 2)]
    assert list(single.index) == ["GLCCL", "CSC off"]
    assert single.at["CSC off", name] == pytest.approx(np.mean(recalls), abs=0.01)
    frames = pd.read_csv(folder / "length_accuracy.csv").query("model == 'GLCCL'")["frames"]
    assert frames.tolist() == [4, 6, 48]  # 77 were asked for, but a video has 48


def test_a_finished_run_is_not_trained_again(finished):
    runs = load_grid(finished).runs.values()
    before = [(run.folder / "best" / "model.safetensors").stat().st_mtime_ns for run in runs]
    for run in runs:
        program.execute(run)
    assert [(run.folder / "best" / "model.safetensors").stat().st_mtime_ns for run in runs] == before


def test_new_settings_of_the_analysis_only_repeat_the_analysis(finished):
    runs = load_grid(finished, ["length_variants=[X-Pool]"]).runs
    assert [runs[variant, 1].analysis is None for variant in VARIANTS] == [True, False, False]
    assert program.holds_results(runs["GLCCL", 1].folder, runs["GLCCL", 1].recipe)


def test_results_of_another_recipe_are_not_passed_off(finished):
    run = load_grid(finished, ["settings.train.learning_rate=0.5"]).runs["GLCCL", 1]
    with pytest.raises(ValueError, match=r"results of another recipe \(train.learning_rate: 0.001 -> 0.5\)"):
        _ = run.analysis


@pytest.mark.parametrize(("variant", "seed"), [("GLCCL", 1), ("X-Pool", 2)])
def test_the_analysis_sees_the_model_that_was_tested(finished, variant, seed):
    run = load_grid(finished).runs[variant, seed]
    analysis, metrics = run.analysis or {}, run.results["test"]
    assert analysis["cmc"]["t2v"][4] == pytest.approx(metrics["t2v"]["R@5"])
    assert analysis["by_frames"][0] == [4, metrics["t2v"]["R@1"]]
    # A caption's video is first exactly where it scores above the best other one.
    scores = {name: np.array(values) for name, values in analysis["scores"].items()}
    first = (scores["positive"] > scores["hard negative"]).mean()
    assert 100 * first == pytest.approx(metrics["t2v"]["R@1"])
    assert ("positive spread" in scores) == any("of one score" in name for name in analysis["values"])
    assert ("positive spread" in scores) == (variant == "GLCCL")


def test_keeping_features_changes_no_score(finished):
    tested = TrainedModel(load_grid(finished).runs["GLCCL", 1])
    model, kept = tested.model, tested.similarity
    del model.similarity
    plain = evaluate(model, tested.processor, tested.dataset, progress=False)
    assert np.array_equal(kept, plain.similarity if plain.similarity is not None else [])
    pair, scale = (3, plain.video_index[3]), float(model.clip.logit_scale.detach().exp())
    with torch.no_grad():
        expected = torch.stack(model.get_scores(tested.texts[0], tested.videos).to_tuple())
    assert [values[pair] for values in tested.scores.values()] == pytest.approx(expected[:, *pair].tolist(), abs=1e-3)
    spread = pair_scores(tested.similarity, plain.video_index, scale, tested.scores)["positive spread"][3]
    assert spread == pytest.approx(float(expected.std(dim=0)[pair]) / scale, abs=1e-4)


def test_the_right_caption_is_shown_wherever_it_ranks():
    similarity = np.arange(8.0)[::-1, None] * np.ones((8, 8))
    rows = np.arange(8)
    result = EvaluationResult({}, [], rows, list("abcdefgh"), rows, rows, {}, similarity)
    shown = [[row[:2] for row in best_captions(result, video) if row[3]] for video in (0, 4, 7)]
    assert shown == [[(1, "a")], [(5, "e")], [(8, "h")]]
    assert [row[1] for row in best_captions(result, 7)] == list("abcdeh")


def test_a_report_of_part_of_the_grid(finished, tmp_path, capsys):
    runs, analyses = collect(load_grid(finished, ["variants.eta 2={model.config.csc_weight: 2}", "seeds=[2, 3]"]))
    assert list(zip(runs["model"], runs["seed"], strict=True)) == [(variant, 2) for variant in VARIANTS]
    assert list(analyses) == list(VARIANTS)
    assert np.isnan(comparison(runs, ["GLCCL"], "GLCCL")["text-to-video R@1 std"]).tolist() == [True]
    assert program.main([str(finished), "--report-only", f"output_dir={tmp_path}"]) == 1
    assert "no run of 'GLCCL', the reference, is finished" in capsys.readouterr().err


def test_variants_find_their_tables(finished):
    more = {"eta 0.5": {"model.config.csc_weight": 0.5}, "hot": {"model.config.glim_temperature": 50}}
    more |= {"GLIM off": {"model.config": {"glim_global": False, "glim_local": False}}}
    grid = load_grid(finished, [f"variants={json.dumps(VARIANTS | more)}"])
    assert grid.sections(grid.settings.variants) == {
        "heads": ["GLCCL", "X-Pool"],
        "glim_csc": ["GLCCL", "CSC off", "GLIM off"],
        "eta": ["CSC off", "GLCCL", "eta 0.5"],
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reference=GLIM", "'GLIM' is none of the variants"),
        ("seeds=[1, 1]", r"seeds=\[1, 1\] must hold one seed or more, each once"),
        ("num_proc=0", "num_proc=0 must be at least 1"),
        ("variants.glccl={}", "'GLCCL' and 'glccl' would share the folder glccl"),
        ("variants.bad={model: {heads: xpool}}", "variant 'bad': unknown key model.heads: did you mean model.head?"),
        ("settings.data.test_split=null", "variant 'GLCCL': data.test_split is null"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_trained(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        load_grid(write_grid(tmp_path), [override])


def test_the_committed_tables_are_those_of_the_committed_runs():
    grid = load_grid(ROOT / "recipes" / "shapes_ablation.yaml")
    runs = pd.read_csv(COMMITTED / "runs.csv")
    found = grid.sections(runs["model"].unique())
    assert {grid.recipe(variant).model.head for variant in found["heads"]} == HEADS.keys()
    eta = spreads(runs, found["eta"], RECALLS).assign(eta=[grid.switches(variant)[2] for variant in found["eta"]])
    curve = json.loads((COMMITTED / "cost.json").read_text())["curve"]
    for name, table in {
        "main": comparison(runs, found["heads"], "GLCCL").reset_index(),
        "glim_csc_all": comparison(runs, found["glim_csc"], "GLCCL").reset_index(),
        "glim_csc": glim_csc(grid, runs, found["glim_csc"]),
        "eta": eta,
        "length_cost": length_cost(grid, curve).drop(columns="variant"),
    }.items():
        committed = pd.read_csv(COMMITTED / f"{name}.csv").filter(list(table))
        pd.testing.assert_frame_equal(
            table.reset_index(drop=True), committed, check_dtype=False, rtol=1e-5, atol=0.006, obj=name
        )


@pytest.mark.slow
@pytest.mark.usefixtures("_small_costs")
def test_processes_train_the_grid_and_failures_are_named(tmp_path, capsys):
    variants = {"GLCCL": {}, "broken": {"train.batch_size": 1000}}
    path = write_grid(tmp_path, variants=variants, seeds=[1], num_proc=2, length_variants=[])
    assert program.main([str(path)]) == 1
    printed = capsys.readouterr()
    log = tmp_path / "out" / "runs" / "glccl" / "seed1" / "run.log"
    assert f"started GLCCL, seed 1: {log}" in printed.out
    assert "1/2 GLCCL, seed 1: done" in printed.out
    assert "1 of 2 runs failed" in printed.err
    assert "broken, seed 1" in printed.err
    assert "lower train.batch_size" in printed.err
    assert program.trained_share(load_grid(path).runs["GLCCL", 1]) == 1
    assert program.main([str(path), "--report-only", "queries=2"]) == 0
    assert (tmp_path / "out" / "report" / "index.html").exists()


def test_an_interrupted_grid_ends_its_runs_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    started = []

    def start(run, threads, arguments):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        return started[-1]

    monkeypatch.setattr(program, "prepare", lambda grid, console: None)
    monkeypatch.setattr(program, "start", start)
    monkeypatch.setattr(program.time, "sleep", Mock(side_effect=KeyboardInterrupt))
    assert program.main([str(write_grid(tmp_path))]) == 130
    assert [process.poll() is not None for process in started] == [True]
    (line,) = capsys.readouterr().err.splitlines()
    assert "the same command goes on" in line


def test_the_share_of_a_training_is_that_of_its_bar(tmp_path):
    run = load_grid(write_grid(tmp_path)).runs["GLCCL", 1]
    assert program.trained_share(run) == 0
    run.folder.mkdir(parents=True)
    bars = [
        " 10%| | 75/750 [00:30<04:30,  2.5step/s, loss 3.1]",
        " 20%|#| 150/750 [09:00<36:00,  3.60s/step, loss 3.0]",
    ]
    run.log.write_text("\r".join([*bars, "videos: 100%|#| 8/8 [00:01<00:00,  8.0batch/s]"]))
    assert program.trained_share(run) == 0.2


@pytest.mark.parametrize("head", HEADS)
def test_scoring_cost_counts_matrix_products(head):
    small, many = (measure_cost(head, items, items, words=4, frames=4, width=32) for items in (8, 16))
    # Work per pair grows with the pairs, work per text or video with these.
    assert 2 * small["macs"] <= many["macs"] <= 4 * small["macs"]
    assert small["seconds"] > 0


def test_average_precision_is_its_mean_over_the_orders_of_ties():
    generator = np.random.default_rng(0)
    for _ in range(60):
        count = int(generator.integers(1, 7))
        weights, relevant = generator.integers(0, 3, count), generator.random(count) < 0.5
        relevant[generator.integers(count)] = True
        assert average_precision(weights, relevant) == pytest.approx(naive_average_precision(weights, relevant))


def naive_average_precision(weights, relevant) -> float:
    found = []
    for order in itertools.permutations(range(len(weights))):
        if all(weights[a] >= weights[b] for a, b in itertools.pairwise(order)):
            hits = [relevant[frame] for frame in order]
            precisions = [sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit]
            found.append(sum(precisions) / len(precisions))
    return sum(found) / len(found)


@pytest.mark.parametrize(("weights", "relevant"), [([1, 2], [0, 0]), ([1, np.nan], [0, 1]), ([1, 2], [1])])
def test_average_precision_needs_something_to_find(weights, relevant):
    with pytest.raises(ValueError, match="relevant"):
        average_precision(weights, relevant)


def test_twin_accuracy_is_that_of_asking_every_caption():
    generator = np.random.default_rng(0)
    groups = np.repeat([5, 2, 9], [4, 4, 3])  # the last group is cut short
    video_index = generator.permutation(np.repeat(np.arange(11), 2))
    similarity = generator.integers(0, 4, (22, 11))
    expected = {}
    for number, kind in enumerate(("shape", "action", "order"), start=1):
        asked = []
        for first in [start for start in (0, 4, 8) if start + number < 11]:
            for own, other in ((first, first + number), (first + number, first)):
                asked += [similarity[i, own] > similarity[i, other] for i in range(22) if video_index[i] == own]
        expected[kind] = 100 * sum(map(int, asked)) / len(asked)
    assert twin_accuracy(similarity, video_index, groups) == pytest.approx(expected)
    with pytest.raises(ValueError, match="twin in action"):
        twin_accuracy(np.eye(2), np.arange(2), np.zeros(2))


def test_tables_show_noise_and_escape_names(tmp_path):
    page = Page(tmp_path, "a title")
    values = {
        "model": ["a<b", "c"],
        "R@1": [50.0, 40.125],
        "R@1 std": [1.254, np.nan],
        "n": [12345, 7],
        "s": [0.012, 3],
    }
    page.table(pd.DataFrame(values), "t")
    for text in ("a&lt;b", "50 ± 1.25", "<td>40.12</td>", "<td>12,345</td>", "<td>0.012</td>"):
        assert text in page.parts[-1]
    assert (tmp_path / "t.csv").read_text() == "model,R@1,R@1 std,n,s\na<b,50,1.25,12345,0.012\nc,40.12,,7,3\n"
