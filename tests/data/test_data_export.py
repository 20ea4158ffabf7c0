"""Benchmarks as Parquet with a card, and back through plain `load_dataset` from a server on this machine."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from functools import partial
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
from modeling_glccl.data.export import export_benchmark

CARDS = REPOSITORY / "hub" / "datasets"
SHAPES = {"num_train": 5, "num_validation": 0, "num_test": 4, "image_size": 32}


def export_shapes(tmp_path: Path, **options) -> dict[str, int]:
    card = CARDS / "shapes" / "README.md"
    return export_benchmark("shapes", tmp_path / "out", card, data_dir=tmp_path / "shapes", **SHAPES, **options)


def read(folder: Path) -> dict[str, list[dict]]:
    """Rows of every split, in order, by plain pyarrow."""
    rows = {}
    for file in sorted((folder / "data").iterdir()):
        rows.setdefault(file.name.partition("-")[0], []).extend(pyarrow.parquet.read_table(file).to_pylist())
    return rows


def test_videos_are_embedded_bit_for_bit(tmp_path):
    rows = export_shapes(tmp_path, videos=True, shard_bytes=10_000)
    assert rows == {"train": 5, "test": 4}
    expected = load_benchmark("shapes", tmp_path / "shapes", split=None, **SHAPES)
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
    folder = miniatures.msrvtt(tmp_path)
    export = partial(export_benchmark, "msrvtt", card=CARDS / "msrvtt" / "README.md", data_dir=str(folder))
    rows = export(tmp_path / "out", splits=["test"])
    expected = load_benchmark("msrvtt", folder, split="test", with_videos=False)
    assert rows == {"test": len(expected)}
    assert read(tmp_path / "out")["test"] == list(expected)
    assert "video" not in expected.column_names
    with pytest.raises(ValueError, match="videos of msrvtt may not be passed on"):
        export(tmp_path / "more", videos=True)
    with pytest.raises(FileExistsError, match="out exists and is no empty folder"):
        export(tmp_path / "out")


def test_the_command_names_the_benchmark_that_may_be_meant(tmp_path, capsys):
    assert main(["data", "export", "shape", str(tmp_path / "out")]) == 1
    assert "unknown benchmark 'shape': did you mean shapes?" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    write = pyarrow.parquet.ParquetWriter.write_table

    def full(writer, table):
        write(writer, table)
        raise OSError(errno.ENOSPC, "Error writing bytes to file. No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pyarrow.parquet.ParquetWriter, "write_table", full)
        with pytest.raises(OSError, match=r"no space left for .*out; .*No space left"):
            export_shapes(tmp_path)
    assert not list(tmp_path.glob("*out*"))
    assert export_shapes(tmp_path) == {"train": 5, "test": 4}


def test_an_export_deletes_nothing_of_others_and_what_a_killed_one_left_is_not_in_its_way(tmp_path):
    for name in ("out.part", ".out.12345678.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("precious")
    export_shapes(tmp_path)
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"data", "README.md"}
    assert {path.read_text() for path in tmp_path.glob("*/thesis.txt")} == {"precious"}
    assert len(list(tmp_path.glob("*out*"))) == 3


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
import hashlib, json, sys
from datasets import load_dataset

def read(row):
    if "video" in row:
        row["video"] = hashlib.sha256(row["video"]["bytes"]).hexdigest()
    return row

loaded = load_dataset(sys.argv[1])
streamed = load_dataset(sys.argv[1], split="test", streaming=True)
sizes = {split: len(rows) for split, rows in loaded.items()}
print(json.dumps([sizes, list(map(read, loaded["test"])), list(map(read, streamed))]))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:msrvtt test")
@pytest.mark.parametrize("name", ["shapes", "msrvtt"])
def test_plain_load_dataset_reads_what_was_pushed_also_streaming(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(CARDS.parent.parent)
    values = SHAPES | {"num_validation": 2} if name == "shapes" else {}
    options = ["--videos", *(f"--set={key}={value}" for key, value in values.items())] if values else ["--split=test"]
    if name == "msrvtt":
        miniatures.msrvtt(tmp_path)
    command = ["data", "export", name, str(tmp_path / "out"), "--data-dir", str(tmp_path), *options]
    with local_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        assert main([*command, "--push", f"someone/{name}"]) == 0
        assert f"{hub.url}/datasets/someone/{name}/commit/" in capsys.readouterr().out
        assert hub.repositories["dataset", f"someone/{name}"].private
        # In a process that knows only the server.
        run = subprocess.run(
            [sys.executable, "-c", LOAD, f"someone/{name}"],
            cwd=tmp_path,
            env=os.environ | hub.environment(tmp_path / "client"),
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    sizes, loaded, streamed = json.loads(run.stdout.splitlines()[-1])
    expected = list(load_benchmark(name, tmp_path, split="test", with_videos=name == "shapes", **values))
    for row in expected if name == "shapes" else ():
        row["video"] = hashlib.sha256(Path(row["video"]["path"]).read_bytes()).hexdigest()
    assert loaded == streamed == expected
    assert sizes == ({"train": 5, "validation": 2, "test": 4} if name == "shapes" else {"test": len(expected)})
