"""`glccl evaluate` from a folder of annotations and videos to its files, on a miniature of every benchmark."""

import io
import json
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stdout

import datasets
import miniatures
import numpy as np
import pandas as pd
import pytest
from checkpoints import save_tiny_checkpoint
from videos import write_video

from modeling_glccl import GLCCLModel, GLCCLProcessor
from modeling_glccl.cli import main
from modeling_glccl.data import load_benchmark
from modeling_glccl.evaluation import (
    bootstrap_intervals,
    dual_softmax,
    evaluate,
    qb_norm,
    retrieval_metrics,
    retrieval_ranks,
)
from modeling_glccl.evaluation.metrics import summarize_ranks

SHAPES = ("--set=num_train=6", "--set=num_validation=0", "--set=num_test=8", "--set=image_size=16")
COLUMNS = "post_processing direction query row caption video_id rank score top1_video_id top1_score"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The miniatures of all benchmarks, beside each other."""
    folder = tmp_path_factory.mktemp("data")
    for make in miniatures.BENCHMARKS.values():
        make(folder)
    # As they are made all videos look the same, and every query would be tied.
    for number, path in enumerate(sorted(folder.glob("*/videos/**/*.*"))):
        write_video(folder / "other.mp4", 9 + 7 * number, fps=10, size=(64, 48)).replace(path)
    return folder


@pytest.fixture(autouse=True)
def quiet():
    """Miniatures are not canonical."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not comparable.*")
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, data_dir):
    """As if trained on MSR-VTT: its tokenizer has seen no other benchmark's captions."""
    folder = tmp_path_factory.mktemp("checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captions = load_benchmark("msrvtt", data_dir, split="train", with_videos=False)["caption"]
    save_tiny_checkpoint(folder, captions)
    return folder


def command(checkpoint, benchmark, data_dir, output, *more) -> list[str]:
    names = {"benchmark": benchmark, "data-dir": data_dir, "output": output, "num-workers": 0}
    return ["evaluate", str(checkpoint), *(f"--{name}={value}" for name, value in names.items()), *map(str, more)]


def run(checkpoint, benchmark, data_dir, output, *more) -> tuple[dict, pd.DataFrame]:
    """results.json and ranks.parquet."""
    assert main(command(checkpoint, benchmark, data_dir, output, *more)) == 0
    return json.loads((output / "results.json").read_text()), pd.read_parquet(output / "ranks.parquet")


def by_hand(checkpoint, dataset, query_bank=()):
    """The same through the functions of the package."""
    model, processor = GLCCLModel.from_pretrained(checkpoint), GLCCLProcessor.from_pretrained(checkpoint)
    return evaluate(model, processor, dataset, query_bank=query_bank, progress=False)


@pytest.fixture(scope="module")
def on_vatex(checkpoint, data_dir, tmp_path_factory):
    """results.json and ranks.parquet of a plain run with confidence intervals, and what it printed."""
    with redirect_stdout(io.StringIO()) as printed:
        found = run(checkpoint, "vatex", data_dir, tmp_path_factory.mktemp("vatex"), "--confidence=90")
    return *found, printed.getvalue()


@pytest.mark.parametrize("benchmark", [*miniatures.BENCHMARKS, "shapes"])
def test_runs_on_a_miniature_of_every_benchmark(checkpoint, data_dir, tmp_path, capsys, benchmark):
    more = SHAPES if benchmark == "shapes" else ()
    results, ranks = run(checkpoint, benchmark, data_dir, tmp_path, *more)
    options = {option.split("=")[1]: int(option.split("=")[2]) for option in more}
    dataset = load_benchmark(benchmark, data_dir, **options)
    expected = by_hand(checkpoint, dataset)
    assert results["metrics"] == expected.metrics
    assert results["post_processing"] is None
    assert "confidence" not in results
    assert results["protocol"] == dataset.info.description
    assert results["settings"]["benchmark_options"] == {"data_dir": str(data_dir), **options}
    assert (results["captions"], results["videos"]) == (len(dataset), len(dataset.unique("video_id")))
    assert (results["processes"], results["precision"], results["dtype"]) == (1, "fp32", "float32")
    assert {"device", "git", "hardware", "versions"} <= set(results)
    for direction, values in expected.ranks.items():
        assert ranks["rank"][ranks["direction"] == direction].tolist() == values.tolist()
    assert (tmp_path / "cmc.png").read_bytes().startswith(b"\x89PNG")
    printed, counts = capsys.readouterr().out, f"{results['captions']} captions, {results['videos']} videos"
    assert all(text in printed for text in ("text-to-video", "video-to-text", "R@1", "MnR", counts))


def test_the_table_of_ranks_says_what_was_asked_and_found(checkpoint, data_dir, on_vatex):
    _, ranks, _ = on_vatex
    dataset = load_benchmark("vatex", data_dir)
    result = by_hand(checkpoint, dataset)
    assert " ".join(ranks.columns) == COLUMNS
    assert (ranks["post_processing"] == "none").all()
    t2v, v2t = (ranks[ranks["direction"] == direction].reset_index() for direction in ("t2v", "v2t"))
    assert t2v["query"].tolist() == t2v["row"].tolist() == list(range(20))
    assert t2v["caption"].tolist() == list(dataset["caption"])
    assert t2v["video_id"].tolist() == list(dataset["video_id"])
    np.testing.assert_allclose(t2v["score"], result.similarity[range(20), result.video_index], rtol=0, atol=1e-4)
    assert t2v["top1_video_id"].tolist() == [result.video_ids[best] for best in result.similarity.argmax(axis=1)]
    np.testing.assert_allclose(t2v["top1_score"], result.similarity.max(axis=1), rtol=0, atol=1e-4)
    assert v2t["caption"].isna().all()
    assert v2t["video_id"].tolist() == result.video_ids
    assert v2t["row"].tolist() == [0, 10]
    # Of video-to-text, the first answer is the video whose best caption scores highest.
    groups = np.array([result.similarity[result.video_index == group].max(axis=0) for group in (0, 1)])
    assert v2t["top1_video_id"].tolist() == [result.video_ids[best] for best in groups.argmax(axis=0)]
    for table in (t2v, v2t):
        assert ((table["video_id"] == table["top1_video_id"]) == (table["rank"] == 1)).all()


@pytest.mark.parametrize("frames", [1, 77])
def test_any_number_of_frames_up_to_the_position_table_works(checkpoint, data_dir, tmp_path, frames):
    results, ranks = run(checkpoint, "msrvtt", data_dir, tmp_path, f"--max-frames={frames}")
    assert results["settings"]["max_frames"] == frames
    assert np.isfinite(ranks["score"]).all()


def test_other_counts_and_padding_change_what_is_read(checkpoint, data_dir, tmp_path):
    settings = {"plain": (), "frames": "--max-frames=2", "words": "--max-words=3", "padding": "--no-mask-padding"}
    found = {
        name: run(checkpoint, "msvd", data_dir, tmp_path / name, *([option] if option else []))
        for name, option in settings.items()
    }
    scores = {name: ranks["score"].to_numpy() for name, (_, ranks) in found.items()}
    for name in ("frames", "words", "padding"):
        assert np.abs(scores[name] - scores["plain"]).max() > 1e-4, name
    assert found["words"][0]["settings"]["max_words"] == 3
    assert [found[name][0]["settings"]["mask_padding"] for name in ("plain", "padding")] == [True, False]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-frames=78"], r"max_frames=78 must lie in 1..77"),
        (["--max-words=33"], "max_words=33 must lie in 3..32"),
        (["--max-words=12", "--no-mask-padding"], "max_words=12 needs mask_padding"),
        (["--confidence=100"], "confidence=100.0 must lie between 0 and 100"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_video_is_read(
    checkpoint, data_dir, tmp_path, capsys, more, message
):
    assert main(command(checkpoint, "msrvtt", data_dir, tmp_path, *more)) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    more = ["--benchmark=shapes", f"--data-dir={tmp_path}", "--set=num_test=8"]
    assert main(["evaluate", str(tmp_path / "nothing"), *more]) == 1
    assert "nothing: no such folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_confidence_intervals_come_from_the_ranks(on_vatex):
    results, ranks, printed = on_vatex
    confidence = results["confidence"]
    assert [confidence[name] for name in ("level", "resamples", "seed")] == [90, 1000, 0]
    for direction, intervals in confidence["intervals"].items():
        values = ranks["rank"][ranks["direction"] == direction].to_numpy()
        assert {name: tuple(ends) for name, ends in intervals.items()} == bootstrap_intervals(values, 90)
    assert "90 % bootstrap interval" in " ".join(printed.split())


def test_qb_norm_is_reported_beside_the_plain_result(checkpoint, data_dir, tmp_path, capsys):
    results, ranks = run(
        checkpoint, "vatex", data_dir, tmp_path, "--post-processing=qb_norm", "--confidence", "--queries=1"
    )
    captions = list(load_benchmark("vatex", data_dir, split="train", with_videos=False)["caption"])
    result = by_hand(checkpoint, load_benchmark("vatex", data_dir), captions)
    assert results["metrics"] == retrieval_metrics(result.similarity, result.video_index)

    bank = result.query_bank
    expected = qb_norm(result.similarity, bank)
    post_processing = results["post_processing"]
    assert (post_processing["name"], post_processing["beta"], post_processing["bank_captions"]) == ("qb_norm", 20, 10)
    assert post_processing["activated"] == bank.activated.sum()
    assert set(post_processing["metrics"]) == {"t2v"}
    expected_ranks = retrieval_ranks(expected, result.video_index)["t2v"]
    assert post_processing["metrics"]["t2v"] == summarize_ranks(expected_ranks)
    assert set(post_processing["confidence"]["intervals"]) == {"t2v"}

    corrected = ranks[ranks["post_processing"] == "qb_norm"]
    assert set(corrected["direction"]) == {"t2v"}
    assert corrected["rank"].tolist() == expected_ranks.tolist()
    np.testing.assert_allclose(corrected["score"], expected[range(20), result.video_index], rtol=0, atol=1e-4)
    assert len(ranks[ranks["post_processing"] == "none"]) == 22
    printed = capsys.readouterr().out
    assert "+ QB-Norm" in printed
    assert f"“{ranks['caption'][0][:20]}" in printed
    assert (tmp_path / "retrieved.png").read_bytes().startswith(b"\x89PNG")


def test_dual_softmax_is_reported_beside_the_plain_result(checkpoint, data_dir, tmp_path, capsys):
    results, ranks = run(checkpoint, "msvd", data_dir, tmp_path, "--post-processing=dual_softmax")
    result = by_hand(checkpoint, load_benchmark("msvd", data_dir))
    assert results["metrics"] == result.metrics
    for direction, scores in dual_softmax(result.similarity).items():
        expected = retrieval_ranks(scores, result.video_index)[direction]
        chosen = (ranks["post_processing"] == "dual_softmax") & (ranks["direction"] == direction)
        assert ranks["rank"][chosen].tolist() == expected.tolist()
        assert results["post_processing"]["metrics"][direction] == summarize_ranks(expected)
    assert "+ DSL" in capsys.readouterr().out


def test_qb_norm_needs_training_captions(checkpoint, data_dir, tmp_path, capsys):
    more = ["--set=num_train=0", *SHAPES[1:], "--post-processing=qb_norm"]
    assert main(command(checkpoint, "shapes", data_dir, tmp_path, *more)) == 1
    assert "split='train'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_equal_one(checkpoint, data_dir, tmp_path):
    more = ["--post-processing=qb_norm", "--confidence", "--batch-size=1"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["HF_DATASETS_CACHE"] = str(datasets.config.HF_DATASETS_CACHE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run(
        [*launch, "-m", "modeling_glccl.cli", *command(checkpoint, "vatex", data_dir, tmp_path / "two", *more)],
        env=environment,
        check=True,
        timeout=300,
    )
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    one, ranks = run(checkpoint, "vatex", data_dir, tmp_path / "one", *more)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert all(two[key] == one[key] for key in ("metrics", "confidence", "post_processing"))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "two" / "ranks.parquet"), ranks, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("benchmark", "split", "clips"), [("msrvtt", "test", 3), ("activitynet", "train", 1)])
def test_real_clips_are_evaluated_by_their_annotations(
    checkpoint, reference_dir, tmp_path, capsys, benchmark, split, clips
):
    folder = reference_dir / "data"
    more = [f"--split={split}", f"--set=videos_dir={folder / f'{benchmark}_clips'}", "--set=missing=skip"]
    results, ranks = run(checkpoint, benchmark, folder / "annotations", tmp_path, *more)
    assert results["videos"] == clips
    assert "not the canonical split" in results["protocol"]
    assert f"{clips} of " in capsys.readouterr().out
    assert len(ranks) == 2 * clips
    assert np.isfinite(ranks["score"]).all()
