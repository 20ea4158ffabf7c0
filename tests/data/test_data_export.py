"""Benchmarks as Parquet with a card, and back through plain `load_dataset` from a server on this machine."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import miniatures
import pyarrow.parquet
import pytest
from hub_server import TOKEN, local_hub
from huggingface_hub import DatasetCard, constants
from paths import REPOSITORY

from modeling_glccl.cli import main
from modeling_glccl.data import BENCHMARKS, load_benchmark
from modeling_glccl.data.export import MARK, export_benchmark

CARDS = REPOSITORY / "hub" / "datasets"
SHAPES = {"num_train": 5, "num_validation": 0, "num_test": 4, "image_size": 32}


def read(folder: Path) -> dict[str, list[dict]]:
    """Rows of every split, in order, by plain pyarrow."""
    rows = {}
    for file in sorted((folder / "data").iterdir()):
        rows.setdefault(file.name.partition("-")[0], []).extend(pyarrow.parquet.read_table(file).to_pylist())
    return rows


def test_videos_are_embedded_bit_for_bit(tmp_path):
    rows = export_benchmark(
        "shapes",
        tmp_path / "out",
        CARDS / "shapes" / "README.md",
        videos=True,
        shard_bytes=10_000,
        data_dir=tmp_path,
        **SHAPES,
    )
    assert rows == {"train": 5, "test": 4}
    expected = load_benchmark("shapes", tmp_path, split=None, **SHAPES)
    assert len(list((tmp_path / "out" / "data").glob("train-*"))) > 1
    for split, found in read(tmp_path / "out").items():
        for row, wanted in zip(found, expected[split], strict=True):
            assert row["video"]["bytes"] == Path(wanted["video"]["path"]).read_bytes()
            assert row["video"]["path"] == Path(wanted["video"]["path"]).name
            assert {**row, "video": None} == {**wanted, "video": None}
    assert "| train | 5 |" in (tmp_path / "out" / "README.md").read_text()
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"data", "README.md"}
    # The card's third split has no rows: it would keep plain load_dataset from loading the others.
    loaded = datasets.load_dataset(str(tmp_path / "out"))
    assert {split: len(dataset) for split, dataset in loaded.items()} == rows


@pytest.mark.filterwarnings("ignore:msrvtt test")
def test_captions_of_other_benchmarks_go_without_their_videos(tmp_path):
    miniatures.msrvtt(tmp_path / "msrvtt")
    card = CARDS / "msrvtt" / "README.md"
    rows = export_benchmark("msrvtt", tmp_path / "out", card, splits=["test"], data_dir=str(tmp_path / "msrvtt"))
    expected = load_benchmark("msrvtt", tmp_path / "msrvtt", split="test", with_videos=False)
    assert rows == {"test": len(expected)}
    assert read(tmp_path / "out")["test"] == list(expected)
    assert "video" not in expected.column_names
    with pytest.raises(ValueError, match="videos of msrvtt may not be passed on"):
        export_benchmark("msrvtt", tmp_path / "more", card, videos=True, data_dir=str(tmp_path / "msrvtt"))
    with pytest.raises(FileExistsError, match="out is not empty"):
        export_benchmark("msrvtt", tmp_path / "out", card, data_dir=str(tmp_path / "msrvtt"))


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    export = ["shapes", tmp_path / "out", CARDS / "shapes" / "README.md"]
    write = pyarrow.parquet.ParquetWriter.write_table

    def full(writer, table):
        write(writer, table)
        raise OSError(errno.ENOSPC, "Error writing bytes to file. No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pyarrow.parquet.ParquetWriter, "write_table", full)
        with pytest.raises(OSError, match=r"out could not be written: .*No space left"):
            export_benchmark(*export, data_dir=tmp_path / "shapes", **SHAPES)
    assert not list(tmp_path.glob("out*"))
    assert export_benchmark(*export, data_dir=tmp_path / "shapes", **SHAPES) == {"train": 5, "test": 4}


def test_only_what_an_export_left_behind_is_replaced(tmp_path):
    export = ["shapes", tmp_path / "out", CARDS / "shapes" / "README.md"]
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"out\.part was not written by an export"):
        export_benchmark(*export, data_dir=tmp_path / "shapes", **SHAPES)
    assert (tmp_path / "out.part" / "thesis.txt").read_text() == "precious"
    (tmp_path / "out.part" / MARK).touch()  # as a killed export leaves it
    export_benchmark(*export, data_dir=tmp_path / "shapes", **SHAPES)
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"data", "README.md"}
    assert not (tmp_path / "out.part").exists()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_a_card_that_the_hub_accepts(name, monkeypatch):
    card = DatasetCard((CARDS / name / "README.md").read_text())
    assert card.data.license == ("apache-2.0" if name == "shapes" else "other")
    assert card.data.pretty_name
    files = {entry["split"]: entry["path"] for entry in card.data.configs[0]["data_files"]}
    assert "test" in files
    assert all(path == f"data/{split}-*" for split, path in files.items())
    with local_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        card.validate()


LOAD = """
import hashlib, json
from datasets import load_dataset

loaded = load_dataset("someone/shapes")
streamed = load_dataset("someone/shapes", split="test", streaming=True)
digest = lambda row: [row["caption"], hashlib.sha256(row["video"]["bytes"]).hexdigest(), row["events"][0]["colour"]]
print(json.dumps([
    {split: len(rows) for split, rows in loaded.items()},
    [digest(row) for row in loaded["test"]],
    [digest(row) for row in streamed],
]))
"""


LOAD_CAPTIONS = """
import json
from datasets import load_dataset

loaded = load_dataset("someone/msrvtt", split="test")
streamed = load_dataset("someone/msrvtt", split="test", streaming=True)
print(json.dumps([list(loaded), list(streamed)]))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:msrvtt test")
def test_captions_of_one_split_are_read_back_too(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(CARDS.parent.parent)
    miniatures.msrvtt(tmp_path / "msrvtt")
    command = ["data", "export", "msrvtt", tmp_path / "out", "--data-dir", tmp_path / "msrvtt", "--split", "test"]
    with local_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        assert main([*map(str, command), "--push", "someone/msrvtt"]) == 0
        loaded, streamed = json.loads(load_in_another_process(LOAD_CAPTIONS, hub, tmp_path))
    expected = load_benchmark("msrvtt", tmp_path / "msrvtt", split="test", with_videos=False)
    assert loaded == streamed == list(expected)


def load_in_another_process(script: str, hub, folder: Path) -> str:
    """The last line that a script prints in a process that knows only the server."""
    environment = os.environ | hub.environment(folder / "client")
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


@pytest.mark.slow
def test_plain_load_dataset_reads_what_was_pushed_also_streaming(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(CARDS.parent.parent)
    options = [f"--set={name}={value}" for name, value in (SHAPES | {"num_validation": 2}).items()]
    command = ["data", "export", "shapes", tmp_path / "out", "--data-dir", tmp_path, "--videos", *options]
    with local_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        assert main([*map(str, command), "--push", "someone/shapes"]) == 0
        assert f"{hub.url}/datasets/someone/shapes/commit/" in capsys.readouterr().out
        assert hub.repositories["dataset", "someone/shapes"].private
        sizes, loaded, streamed = json.loads(load_in_another_process(LOAD, hub, tmp_path))
    assert sizes == {"train": 5, "validation": 2, "test": 4}
    assert loaded == streamed
    captions = load_benchmark("shapes", tmp_path, split="test", **SHAPES)["caption"]
    assert [row[0] for row in loaded] == list(captions)
