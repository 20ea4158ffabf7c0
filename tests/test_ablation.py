"""A tiny ablation from its grid to its report, and the parts of which it is made."""

import csv
import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from training_runs import TINY

from modeling_glccl.ablation import ablate, load_grid
from modeling_glccl.ablation.analysis import FeatureRecorder, open_model, pair_scores
from modeling_glccl.ablation.command import prepare
from modeling_glccl.ablation.cost import measure_cost
from modeling_glccl.ablation.outcomes import Spread, collect, sections
from modeling_glccl.ablation.schedule import run_all
from modeling_glccl.ablation.strips import captioned
from modeling_glccl.ablation.tables import MODEL, html_table, write_csv
from modeling_glccl.ablation.worker import analysis_file, execute, is_done
from modeling_glccl.cli import main
from modeling_glccl.evaluation import EvaluationResult, average_precision, evaluate, twin_accuracy
from modeling_glccl.peers.heads import HEADS
from modeling_glccl.training.loop import load_splits

RECIPES = Path(__file__).parent.parent / "recipes"
COST = {"items": 6, "words": [3, 5], "frames": 4, "curve_frames": [4, 8], "curve_videos": 2, "width": 32}
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
        "cost": COST,
    } | values
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The path of a grid whose runs are done, in this process."""
    path = write_grid(tmp_path_factory.mktemp("ablation"))
    grid = load_grid(path)
    prepare(grid)
    for run in grid:
        execute(grid, run)
    return path


class Page(HTMLParser):
    """What a browser would load, and the ids that links lead to."""

    def __init__(self, text: str):
        super().__init__()
        self.sources, self.links, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.links += [attributes["href"]] if tag == "a" else []
        self.ids += [attributes["id"]] if "id" in attributes else []


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_report_holds_every_table_and_figure(finished, capsys):
    assert main(["ablate", str(finished)]) == 0
    assert "6 runs, 6 done before" in capsys.readouterr().out
    folder = finished.parent / "out" / "report"
    text = (folder / "index.html").read_text()
    page = Page(text)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|@import|url\(|<script|<link", text)
    figures = ("cmc", "eta", "scores", "length", "text_to_video", "video_to_text")
    assert len(page.sources) == len(figures)
    assert {path.stem for path in folder.glob("*.png")} == set(figures)
    for link in page.links:
        assert link.removeprefix("#") in page.ids if link.startswith("#") else (folder / link).exists()

    main_rows = rows_of(folder / "main.csv")
    assert [row["model"] for row in main_rows] == ["GLCCL", "X-Pool"]
    grid = load_grid(finished)
    recalls = [grid.find("X-Pool", seed).results["test"]["t2v"]["R@5"] for seed in (1, 2)]
    assert float(main_rows[1]["text-to-video R@5"]) == pytest.approx(np.mean(recalls), abs=0.01)
    assert float(main_rows[1]["text-to-video R@5 std"]) == pytest.approx(np.std(recalls, ddof=1), abs=0.01)
    assert len(rows_of(folder / "runs.csv")) == 6
    single = rows_of(folder / "single_scores.csv")
    assert [row["model"] for row in single] == ["GLCCL", "CSC off"]
    recalls = [
        json.loads(analysis_file(grid.find("CSC off", seed)).read_text())["single_scores"]["frame_word"]["t2v"]["R@1"]
        for seed in (1, 2)
    ]
    assert float(single[1]["text-to-video R@1 of one score frame-word"]) == pytest.approx(np.mean(recalls), abs=0.01)
    assert single[1]["text-to-video R@1 mean of all"] == rows_of(folder / "eta.csv")[0]["text-to-video R@1"]
    # 77 frames were asked for, but a video has 48.
    frames = [float(row["frames"]) for row in rows_of(folder / "length_accuracy.csv") if row["model"] == "GLCCL"]
    assert frames == [4, 6, 48]


def test_a_finished_run_is_not_trained_again(finished):
    grid = load_grid(finished)
    weights = [run.model_folder / "model.safetensors" for run in grid]
    before = [path.stat().st_mtime_ns for path in weights]
    for run in grid:
        execute(grid, run)
    assert [path.stat().st_mtime_ns for path in weights] == before


def test_new_settings_of_the_analysis_only_repeat_the_analysis(finished, tmp_path):
    grid = load_grid(finished, ["length_variants=[X-Pool]"])
    assert [is_done(grid, grid.find(variant, 1)) for variant in VARIANTS] == [False, True, True]
    assert grid.find("GLCCL", 1).is_trained()


def test_results_of_another_recipe_are_not_passed_off(finished):
    grid = load_grid(finished, ["settings.train.learning_rate=0.5"])
    with pytest.raises(ValueError, match=r"results of another recipe \(train.learning_rate: 0.001 -> 0.5\)"):
        is_done(grid, grid.runs[0])


def test_the_analysis_sees_the_model_that_was_tested(finished):
    grid = load_grid(finished)
    for run in (grid.find("GLCCL", 1), grid.find("X-Pool", 2)):
        analysis = json.loads(analysis_file(run).read_text())
        ranks = np.array(analysis["ranks"]["t2v"])
        assert ranks.mean() == pytest.approx(run.results["test"]["t2v"]["MnR"])
        # A caption's video is first exactly where it scores above the best other one.
        scores = {name: np.array(values) for name, values in analysis["scores"].items()}
        assert ((scores["positive"] > scores["hard negative"]) == (ranks == 1)).all()
        four_scores = run.variant == "GLCCL"
        assert ("positive spread" in scores) == ("single_scores" in analysis) == four_scores
        assert analysis["by_frames"][0]["metrics"] == run.results["test"]


def test_recording_changes_no_score(finished):
    run = load_grid(finished).runs[0]
    model, processor = open_model(run)
    dataset = load_splits(run.recipe)["test"]
    recorder = FeatureRecorder(model, "fp32")
    recorded, plain = (evaluate(one, processor, dataset, progress=False) for one in (recorder, model))
    assert np.array_equal(recorded.similarity, plain.similarity)
    pair, scale = (3, plain.video_index[3]), float(model.clip.logit_scale.detach().exp())
    with torch.no_grad():
        expected = model.get_scores(recorder.texts[0], recorder.videos)
    scores = recorder.all_scores()
    assert {name: values[pair] for name, values in scores.items()} == pytest.approx(
        {name: float(values[pair]) for name, values in expected.items()}, abs=1e-3
    )
    spread = pair_scores(plain, scale, scores)["positive spread"][3]
    assert spread == pytest.approx(float(torch.stack(expected.to_tuple()).std(dim=0)[pair]) / scale, abs=1e-4)


def test_the_right_caption_is_shown_wherever_it_ranks():
    similarity = np.arange(8.0)[::-1, None] * np.ones((8, 8))
    result = EvaluationResult({}, [], [], list("abcdefgh"), [], np.arange(8), {}, similarity)
    shown = [
        [(rank, caption) for rank, caption, _, correct in captioned(result, video, None).captions if correct]
        for video in (0, 4, 7)
    ]
    assert shown == [[(1, "a")], [(5, "e")], [(8, "h")]]
    assert [caption for _, caption, _, _ in captioned(result, 7, None).captions] == list("abcdeh")


def test_a_report_of_part_of_the_grid(finished, tmp_path):
    outcomes = collect(load_grid(finished, ["variants.eta 2={model.config.csc_weight: 2}", "seeds=[2, 3]"]))
    assert {variant: [one.run.seed for one in found] for variant, found in outcomes.by_variant.items()} == {
        "GLCCL": [2],
        "CSC off": [2],
        "X-Pool": [2],
    }
    assert outcomes.metric("GLCCL", "t2v", "R@1").std is None
    with pytest.raises(ValueError, match="no run of 'GLCCL', the reference, is finished"):
        ablate(finished, [f"output_dir={tmp_path}"], report_only=True)


def test_variants_find_their_tables(finished):
    variants = json.dumps(
        {
            **VARIANTS,
            "eta 0.5": {"model.config.csc_weight": 0.5},
            "GLIM off": {"model.config": {"glim_global": False, "glim_local": False}},
            "hot": {"model.config.glim_temperature": 50},
        }
    )
    grid = load_grid(finished, [f"variants={variants}"])
    outcomes = collect(grid)
    everything = type(outcomes)(grid, dict.fromkeys(grid.settings.variants, ()))
    found = sections(everything)
    assert found.heads == ["GLCCL", "X-Pool"]
    assert found.eta == ["CSC off", "GLCCL", "eta 0.5"]
    assert found.glim_csc == ["GLCCL", "CSC off", "GLIM off"]
    assert found.others == ["hot"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reference=GLIM", "'GLIM' is none of the variants"),
        ("seeds=[1, 1]", r"seeds=\[1, 1\] must hold one seed or more, each once"),
        ("num_proc=0", "num_proc=0 must be at least 1"),
        ("cost.word=[3]", "unknown key cost.word: did you mean cost.words?"),
        ("variants.glccl={}", "'GLCCL' and 'glccl' would share the folder glccl"),
        ("variants.bad={model: {heads: xpool}}", "variant 'bad': unknown key model.heads: did you mean model.head?"),
        ("settings.data.test_split=null", "variant 'GLCCL': data.test_split is null"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_trained(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        load_grid(write_grid(tmp_path), [override])


def test_the_grid_of_the_repository():
    grid = load_grid(RECIPES / "shapes_ablation.yaml")
    found = sections(type(collect(grid))(grid, dict.fromkeys(grid.settings.variants, ())))
    heads = {grid.recipe(variant).model.head for variant in found.heads}
    assert heads == HEADS.keys()
    assert len(found.glim_csc) == 8
    assert len(found.eta) == 4
    assert found.others == []


@pytest.mark.slow
def test_processes_train_the_grid_and_failures_are_named(tmp_path, capsys):
    variants = {"GLCCL": {}, "broken": {"train.batch_size": 1000}}
    path = write_grid(tmp_path, variants=variants, seeds=[1], num_proc=2, length_variants=[])
    assert main(["ablate", str(path)]) == 1
    printed = capsys.readouterr()
    assert "1/2 GLCCL, seed 1" in printed.out
    assert "1 of 2 runs failed" in printed.err
    assert "broken, seed 1" in printed.err
    assert "lower train.batch_size" in printed.err
    assert main(["ablate", str(path), "--report-only"]) == 0
    assert (tmp_path / "out" / "report" / "index.html").exists()


def test_an_interrupted_grid_ends_its_runs(tmp_path, monkeypatch):
    grid = load_grid(write_grid(tmp_path))
    started = []

    def start(run, threads, path, overrides):
        started.append(subprocess_that_waits())
        return started[-1]

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("modeling_glccl.ablation.schedule.start", start)
    monkeypatch.setattr("modeling_glccl.ablation.schedule.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_all(grid, tmp_path / "grid.yaml", [], Quiet())
    assert [process.poll() is not None for process in started] == [True]


class Quiet:
    def print(self, *arguments):
        pass


def subprocess_that_waits():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


@pytest.mark.parametrize("head", HEADS)
def test_scoring_cost_counts_matrix_products(head):
    small = measure_cost(head, texts=8, videos=8, words=4, frames=4, width=32)
    many = measure_cost(head, texts=16, videos=16, words=4, frames=4, width=32)
    # Work per pair grows with the pairs, work per text or video with these.
    assert 2 * small.macs <= many.macs <= 4 * small.macs
    assert small.seconds > 0


def test_scoring_cost_of_mean_pooling_is_one_product():
    assert measure_cost("clip4clip_meanp", texts=8, videos=6, words=4, frames=4, width=32).macs == 8 * 6 * 32


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
    similarity = torch.from_numpy(generator.integers(0, 4, (22, 11)))
    expected = {}
    for number, kind in enumerate(("shape", "action", "order"), start=1):
        asked = []
        for first in [start for start in (0, 4, 8) if start + number < 11]:
            for own, other in ((first, first + number), (first + number, first)):
                asked += [similarity[i, own] > similarity[i, other] for i in range(22) if video_index[i] == own]
        expected[kind] = 100 * sum(map(int, asked)) / len(asked)
    assert twin_accuracy(similarity, torch.from_numpy(video_index), groups) == pytest.approx(expected)


def test_twin_accuracy_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="one row for each of the 2 captions"):
        twin_accuracy(np.eye(3), [0, 1], [0, 0, 0])
    with pytest.raises(ValueError, match="twin in action"):
        twin_accuracy(np.eye(2), [0, 1], [0, 0])


def test_tables_show_noise_and_escape_names(tmp_path):
    rows = [
        {MODEL: "a<b", ("t2v", "R@1"): Spread(50.0, 1.25), ("t2v", "MnR"): Spread(3.0, None), ("", "n"): 12345},
        {MODEL: "c", ("t2v", "R@1"): Spread(40.0, None), ("t2v", "MnR"): Spread(2.0, None), ("", "n"): 0.012},
    ]
    text = html_table(rows, highlight="c")
    assert "a&lt;b" in text
    assert "<b>50.0</b><i> ± 1.2</i>" in text
    assert "<b>2.0</b>" in text  # the lower mean rank is the better one
    assert "<b>3.0</b>" not in text
    assert "<td>12,345</td>" in text
    assert text.index("<tr class=reference>") < text.index("0.012")
    write_csv(rows, tmp_path / "t.csv")
    assert rows_of(tmp_path / "t.csv")[0] == {
        "model": "a<b",
        "t2v R@1": "50.00",
        "t2v R@1 std": "1.25",
        "t2v MnR": "3.00",
        "t2v MnR std": "",
        "n": "12345",
    }
