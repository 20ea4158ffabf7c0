"""Own videos and captions: tables of every kind, their splits, their errors, and a model from start to end."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import miniatures
import pyarrow
import pyarrow.parquet
import pytest
from accelerate.state import AcceleratorState
from families import save_deep_clip
from paths import REPOSITORY
from videos import write_video

from modeling_glccl.cli import main
from modeling_glccl.data import load_benchmark
from modeling_glccl.data.captions import _split_files
from modeling_glccl.data.check import check_benchmark
from modeling_glccl.training import load_recipe, train

RECIPE = REPOSITORY / "recipes" / "own_videos.yaml"
COLOURS = ("red", "green", "blue", "white", "black", "grey", "pink", "brown")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Eight clips that look different."""
    folder = tmp_path_factory.mktemp("clips")
    for number, colour in enumerate(COLOURS):
        write_video(folder / f"{colour}.mp4", 12 + 7 * number, fps=10)
    return folder


@pytest.fixture
def folder(tmp_path, clips):
    """A folder with the eight clips, one of them below a sub-folder, and no table yet."""
    folder = tmp_path / "my videos"
    (folder / "sub").mkdir(parents=True)
    for path in clips.iterdir():
        os.link(path, folder / ("sub" if path.stem == "brown" else "") / path.name)
    return folder


ROWS = [
    {"file_name": f"{'sub/' if colour == 'brown' else ''}{colour}.mp4", "caption": f'a {colour}, "moving" scene'}
    for colour in COLOURS
]


def write_table(folder: Path, rows: list[dict], kind: str = "csv") -> Path:
    return miniatures.write_table(folder / f"metadata.{kind}", rows)


def load(folder: Path, split: str | None = "test", **options):
    return load_benchmark("captions", data_dir=folder, split=split, **options)


def everything(folder: Path, **options) -> list[dict]:
    return list(load(folder, split_ratio=[0, 0, 1], **options))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_kind_of_table_gives_the_rows_of_a_benchmark(folder, kind):
    rows = [row | {"start": None, "end": None} for row in ROWS]
    rows[1] |= {"start": 0.5, "end": 1.5}
    rows.append(rows[0] | {"caption": "again\u2028red"})  # a second caption of the first video, with a line separator
    write_table(folder, rows, kind)
    dataset = load(folder, split_ratio=[0, 0, 1])
    expected = [rows[0], rows[-1], *rows[1:-1]]  # all captions of a video follow each other
    assert list(dataset) == [
        {
            "video": {"path": str(folder / row["file_name"]), "bytes": None},
            "video_id": row["file_name"] + ("#t=0.5,1.5" if row["end"] else ""),
            "caption": row["caption"],
            "start": row["start"],
            "end": row["end"],
        }
        for row in expected
    ]
    assert dataset.column_names == ["video", "video_id", "caption", "start", "end"]
    assert dataset.info.description == "own captions, test (split 0:0:1 with seed 0)"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_list_of_captions_is_as_good_as_repeated_rows(folder, kind):
    write_table(folder, [{"file_name": row["file_name"], "captions": [row["caption"], "more"]} for row in ROWS], kind)
    rows = everything(folder)
    assert [row["caption"] for row in rows] == [text for row in ROWS for text in (row["caption"], "more")]
    assert everything(folder, captions="list")[0]["captions"] == [ROWS[0]["caption"], "more"]
    write_table(folder, [{"file_name": r["video_id"], "caption": r["caption"]} for r in rows], "csv")
    (folder / f"metadata.{kind}").unlink()
    assert everything(folder) == rows


def test_a_csv_holds_a_list_as_json_and_brackets_are_text(folder):
    write_table(folder, [ROWS[0] | {"caption": '["one", "two"]'}, ROWS[1] | {"caption": "[music] a man sings"}])
    assert [row["caption"] for row in everything(folder)] == ["one", "two", "[music] a man sings"]


def test_a_byte_order_mark_and_windows_line_ends_are_read(folder):
    path = write_table(folder, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    expected = everything(folder)
    path.unlink()
    path = write_table(folder, ROWS, "jsonl")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert everything(folder) == expected
    assert [row["caption"] for row in expected] == [row["caption"] for row in ROWS]


def test_columns_have_the_names_that_you_say(folder):
    path = write_table(folder, [{"clip": row["file_name"], "text": row["caption"]} for row in ROWS])
    assert len(everything(folder, video_column="clip", caption_column="text")) == 8
    with pytest.raises(ValueError, match=r"no column 'file_name'; it has 'clip', 'text'.*video_column=") as error:
        load(folder)
    assert str(path) in str(error.value)


def test_videos_may_lie_elsewhere(folder, tmp_path):
    write_table(tmp_path, ROWS)
    assert len(everything(tmp_path, videos_dir=folder.name)) == 8
    with pytest.raises(FileNotFoundError, match=r"8 of 8 videos are missing: red.mp4 \(metadata.csv, line 2\)"):
        everything(tmp_path)


# -- splits


def test_the_splits_of_the_column_are_those_of_the_benchmark(folder):
    names = ["train", "Train", "training", "train", "val", "dev", "test", "test"]
    rows = [row | {"split": split} for row, split in zip(ROWS, names, strict=True)]
    write_table(folder, rows)
    with pytest.raises(ValueError, match=r"line 4, blue.mp4: split is 'training'; expected train, validation, test"):
        load(folder)
    write_table(folder, [row for row in rows if row["split"] != "training"])
    sizes = {name: len(split) for name, split in load(folder, None).items()}
    assert sizes == {"train": 3, "validation": 2, "test": 2}
    assert len(load(folder, "val")) == 2


def test_a_split_that_is_not_there_is_named(folder):
    write_table(folder, [row | {"split": "test" if number > 5 else "train"} for number, row in enumerate(ROWS)])
    assert list(load(folder, None)) == ["train", "test"]
    with pytest.raises(ValueError, match=r"no row is in split validation; there are 6 in train, 2 in test.*=null"):
        load(folder, "validation")


def test_a_video_in_two_splits_is_refused(folder):
    rows = [row | {"split": "train", "end": None} for row in ROWS]
    write_table(folder, [*rows, rows[0] | {"split": "test", "end": 1}])
    with pytest.raises(ValueError, match=r"/metadata.csv, .*line 10: red.mp4 is in test, but in train at .*, line 2"):
        load(folder, "train")


def test_folders_named_like_splits_have_tables_of_their_own(folder, clips):
    for split in ("train", "val"):
        (folder / split).mkdir()
        os.link(clips / "red.mp4", folder / split / "red.mp4")
        write_table(folder / split, ROWS[:1])
    splits = load(folder, None)
    ids = {split: list(rows["video_id"]) for split, rows in splits.items()}
    assert ids == {"train": ["train/red.mp4"], "validation": ["val/red.mp4"]}
    assert splits["validation"][0]["video"]["path"] == str(folder / "val" / "red.mp4")


def test_without_a_column_eight_videos_make_three_splits_and_no_video_is_in_two(folder):
    rows = [row | {"start": start, "end": start + 0.5} for row in ROWS for start in (0, 0.5)]
    write_table(folder, rows)
    splits = load(folder, None)
    files = {name: {row["video"]["path"] for row in split} for name, split in splits.items()}
    assert {name: len(paths) for name, paths in files.items()} == {"train": 4, "validation": 2, "test": 2}
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "validation": 4, "test": 4}
    assert len(set.union(*files.values())) == 8
    again = {name: {row["video"]["path"] for row in split} for name, split in load(folder, None).items()}
    assert again == files
    assert any(
        {row["video"]["path"] for row in load(folder, "test", split_seed=seed)} != files["test"] for seed in (1, 2, 3)
    )


@pytest.mark.parametrize(
    ("count", "ratio", "sizes"),
    [
        (3, (0.8, 0.1, 0.1), (1, 1, 1)),
        (8, (0.8, 0.1, 0.1), (4, 2, 2)),
        (8, (0, 0, 1), (0, 0, 8)),
        (8, (0.5, 0, 0.5), (4, 0, 4)),
        (100, (0.8, 0.1, 0.1), (80, 10, 10)),
        (1000, (0.1, 0.1, 0.8), (100, 100, 800)),
    ],
)
def test_sizes_of_splits_by_ratio(count, ratio, sizes):
    names = ("train", "validation", "test")
    split_of = _split_files({f"{i}.mp4" for i in range(count)}, dict(zip(names, ratio, strict=True)), 0)
    assert tuple(list(split_of.values()).count(name) for name in names) == sizes


def test_a_growing_folder_keeps_its_splits():
    ratio = {"train": 0.8, "validation": 0.1, "test": 0.1}
    before = _split_files({f"{i}.mp4" for i in range(1000)}, ratio, 0)
    after = _split_files({f"{i}.mp4" for i in range(1100)}, ratio, 0)
    assert sum(before[file] != after[file] for file in before) < 20


def test_a_name_may_have_its_accents_apart(folder):
    """As macOS writes it, where the table came from another system."""
    (folder / "red.mp4").rename(folder / "cafe\u0301.mp4")
    write_table(folder, [ROWS[0] | {"file_name": "caf\xe9.mp4"}, *ROWS[1:]])
    (row,) = [row for row in load(folder, split_ratio=[0, 0, 1]) if "red" in row["caption"]]
    assert row["video_id"] == "caf\xe9.mp4"
    assert row["video"]["path"] == str(folder / "cafe\u0301.mp4")


@pytest.mark.skipif(sys.platform == "darwin", reason="there the two names are one")
def test_two_names_that_differ_by_their_accents_are_two_files(folder):
    names = ["caf\xe9.mp4", "cafe\u0301.mp4"]
    for row, name in zip(ROWS, names, strict=False):
        (folder / row["file_name"]).rename(folder / name)
    rows = [row | {"file_name": name} for row, name in zip(ROWS, names, strict=False)]
    write_table(folder, [*rows, *ROWS[2:]])
    paths = {row["video_id"]: row["video"]["path"] for row in load(folder, split_ratio=[0, 0, 1])}
    assert [paths[name] for name in names] == [str(folder / name) for name in names]


def test_a_table_that_unfolds_to_more_rows_than_it_has_bytes_is_refused(folder):
    count = 10_000_000
    same = pyarrow.DictionaryArray.from_arrays(pyarrow.array(bytearray(count), pyarrow.int8()), ["red.mp4"])
    pyarrow.parquet.write_table(pyarrow.table({"file_name": same, "caption": same}), folder / "metadata.parquet")
    with pytest.raises(ValueError, match=r"metadata\.parquet: no Parquet .* bytes unfold to 10,000,000 rows"):
        load(folder)


@pytest.mark.parametrize("ratio", [[0.8, 0.2], [0.8, 0.1, 0.2], [1.1, -0.1, 0], "0.8", ["a", "b", "c"]])
def test_a_bad_ratio_is_named(folder, ratio):
    write_table(folder, ROWS)
    with pytest.raises(ValueError, match=r"split_ratio=.*three shares, of train, validation and test"):
        load(folder, split_ratio=ratio)


# -- what is wrong with a table


VALUES = {
    "csv": [
        ({"caption": ""}, "a caption is None; expected a text"),
        ({"caption": "  \t"}, r"a caption is '  \\t', which is empty; expected a text"),
        ({"caption": "&nbsp;"}, "which is empty"),
        ({"caption": "\u200b"}, "which is empty"),
        ({"caption": "NaN"}, "a caption is 'NaN', which stands for none"),
        ({"start": "soon"}, "start is 'soon'; expected seconds"),
        ({"start": "NaN"}, "start is .*; expected seconds"),
        ({"end": "inf"}, "end is .*; expected seconds"),
        ({"start": "-1"}, "start is .*; expected seconds from 0 to 1,000,000, or"),
        ({"end": "1e308"}, "end is '1e308'; expected seconds from 0 to 1,000,000, or"),  # in float32 it is infinite
        ({"start": "5", "end": "5"}, "ends at 5 and starts at 5; expected an end after the start"),
        ({"end": "0"}, "ends at 0 and starts at 0; expected an end after the start"),
        ({"file_name": ""}, "the file name is None; expected a text"),
        ({"file_name": "  "}, "the file name is '  ', which is only spaces; expected a text"),
        ({"file_name": " red.mp4"}, "the file name is ' red.mp4', with spaces around it.*; expected 'red.mp4'"),
        ({"file_name": "../red.mp4"}, "leads out of .*my videos; expected a name within"),
        ({"file_name": "/etc/passwd"}, "leads out of"),
        ({"file_name": "sub/../../red.mp4"}, "leads out of"),
    ],
    "parquet": [
        ({"caption": None}, "blue.mp4: a caption is None"),
        ({"start": float("nan")}, "start is nan; expected seconds"),
        ({"start": 2.0, "end": 1.0}, "ends at 1.0 and starts at 2.0"),
    ],
}
VALUES["jsonl"] = [
    *VALUES["parquet"],
    ({"caption": 5}, "captions are 5; expected a text or a list of texts"),
    ({"start": True}, "start is True; expected seconds"),
    ({"end": 10**400}, "end is 1000.*; expected seconds"),
    ({"caption": []}, r"captions are \[\]; expected"),
    ({"caption": ["good", ""]}, "a caption is '', which is empty"),
    ({"caption": {"en": "a"}}, "captions are .*; expected a text"),
    ({"caption": "a \ud800"}, "no Unicode text"),
    ({"file_name": "\ud800.mp4"}, r"the file name is '\\ud800.mp4', which is no Unicode text"),
]


@pytest.mark.parametrize(
    ("kind", "values", "problem"), [(kind, *case) for kind, cases in VALUES.items() for case in cases]
)
def test_a_bad_value_is_an_error_with_file_record_and_what_was_expected(folder, kind, values, problem):
    nothing = "" if kind == "csv" else None
    rows = [row | {"start": nothing, "end": nothing} for row in ROWS]
    rows[2] |= values
    path = write_table(folder, rows, kind)
    with pytest.raises(ValueError, match=problem) as error:
        load(folder)
    assert f"{path}: 1 of 8 rows cannot be used\n" in str(error.value)
    assert {"csv": "  line 4", "jsonl": "  line 3", "parquet": "  row 2"}[kind] in str(error.value)


def test_all_bad_rows_are_counted_and_the_first_ten_named(folder):
    write_table(folder, [row | {"caption": " "} for row in ROWS] * 2)
    with pytest.raises(ValueError, match=r"16 of 16 rows cannot be used") as error:
        load(folder)
    assert str(error.value).count("\n") == 11
    assert str(error.value).endswith("...")


CONTENTS = {
    "csv": [
        ("file_name,caption\na.mp4,x\n".encode("utf-16"), "UTF-16; expected UTF-8"),
        ("file_name,caption\na.mp4,x\n".encode("utf-16-le"), "zero bytes.*UTF-16.*expected UTF-8"),
        ("file_name,caption\na.mp4,café\n".encode("latin-1"), "byte 27 is not UTF-8; expected UTF-8"),
        (b"file_name;caption\na.mp4;x\n", r"it has 'file_name;caption'; they are separated by ';', expected ','"),
        (b"file_name\tcaption\na.mp4\tx\n", r"separated by '\\t', expected ','"),
        (b"video,caption\na.mp4,x\n", "no column 'file_name'; it has 'video', 'caption'"),
        (b"file_name,text\na.mp4,x\n", "no column 'caption'; it has 'file_name', 'text'"),
        (b"file_name,caption,captions\na.mp4,x,y\n", "a column caption and a column captions"),
        (b"file_name,caption,caption\na.mp4,x,y\n", "line 1: two columns are named 'caption'"),
        (b"file_name,caption\na.mp4,a man, cooking\n", "line 2: 3 values, the header has 2; expected.*double quotes"),
        (b'file_name,caption\na.mp4,"a man\n', "line 2: unexpected end of data; expected.*double quotes"),
        (b"", "no column 'file_name'; it has none"),
        (b"file_name,caption\n", "no rows"),
    ],
    "jsonl": [
        (b"<!DOCTYPE html>\n<html>", r"line 1: no JSON: .*'<!DOCTYPE html>'"),
        (b'{"file_name": "red.mp4", "caption": "x"}\n["red.mp4"]\n', "line 2: .*is no object"),
        (b'[{"file_name": "red.mp4"},\n', "line 1: no JSON"),
    ],
    "parquet": [
        (b"PAR1 not really", "no Parquet file"),
        (b"PAR1\x15\xff\xff\xff\xff\x04\0\0\0PAR1", "no Parquet file"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "content", "problem"), [(kind, *case) for kind, cases in CONTENTS.items() for case in cases]
)
def test_a_table_that_cannot_be_read_is_an_error_that_names_it(folder, kind, content, problem):
    path = folder / f"metadata.{kind}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=problem) as error:
        load(folder)
    assert str(path) in str(error.value)


def test_no_table_and_two_tables_are_errors_that_say_so(folder):
    (folder / "captions.csv").write_text("file_name,caption\n")
    with pytest.raises(FileNotFoundError, match=r"none of metadata.csv.*; it has captions.csv: rename"):
        load(folder)
    write_table(folder, ROWS)
    write_table(folder, ROWS, "jsonl")
    with pytest.raises(ValueError, match=r"has metadata.csv and metadata.jsonl: keep one"):
        load(folder)


# -- glccl data check


def test_the_check_names_missing_undecodable_and_late_windows(folder, capsys):
    command = ["data", "check", "captions", "--data-dir", str(folder), "--num-proc", "1"]
    rows = [row | {"end": None, "start": None, "split": "train"} for row in ROWS]
    write_table(folder, rows)
    assert main(command) == 0
    (folder / "red.mp4").unlink()
    (folder / "green.mp4").unlink()
    (folder / "green.mp4").write_bytes(b"not a video")
    write_table(folder, [*rows[:2], rows[2] | {"start": 50}, *rows[3:]])
    capsys.readouterr()
    assert main(command) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "NOT complete" in shown
    assert "train: red.mp4 (metadata.csv, line 2) is missing" in shown
    assert re.search(r"train: green\.mp4 \(metadata\.csv, line 3\): \S+ ?\S*/green\.mp4: ", shown)
    assert re.search(r"train: blue\.mp4#t=50 \(metadata\.csv, line 4\): .*blue\.mp4: no frame between start=50", shown)
    report = check_benchmark("captions", folder)
    assert [split.split for split in report.splits] == ["train"], "splits that the table does not have are not missed"


def test_the_check_looks_at_the_windows_of_a_table_too_small_to_divide(folder):
    write_table(folder, [ROWS[0] | {"start": 50, "end": 60}, ROWS[1] | {"start": 0, "end": 1}])
    report = check_benchmark("captions", folder)
    assert not report.ok
    undivided, test = report.splits
    assert "2 videos cannot be divided into train, validation, test; expected 3" in undivided.problem
    assert list(test.undecodable) == ["red.mp4#t=50,60"]
    assert (test.videos, test.damaged) == (2, {})


def test_the_check_shows_one_error_for_a_table_that_cannot_be_used_or_no_folder(folder, capsys):
    write_table(folder, [ROWS[0] | {"caption": ""}, *ROWS[1:]])
    assert main(["data", "check", "captions", "--data-dir", str(folder)]) == 1
    assert capsys.readouterr().err.count("cannot be used") == 1
    assert main(["data", "check", "msrvtt"]) == 1
    assert "data_dir=None is not a folder: name that of the videos" in capsys.readouterr().err


# -- the Hub


def test_videos_inside_a_dataset_are_written_to_files_once(folder, tmp_path):
    """A dataset as `push_to_hub` makes it: bytes in Parquet, a row per caption, one split."""
    rows = [
        {"video": {"bytes": (folder / row["file_name"]).read_bytes(), "path": Path(row["file_name"]).name}, **extra}
        for row in ROWS
        for extra in ({"text": row["caption"], "end": None}, {"text": "more", "end": 1.0})
    ]
    rows[-1]["video"] = rows[-1]["video"] | {"path": "red.mp4"}  # another video of the same name
    (tmp_path / "hub").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "hub" / "train.parquet")
    options = {"repo_id": str(tmp_path / "hub"), "caption_column": "text", "split": None}
    splits = load_benchmark("captions", **options)
    files = {name: len({row["video"]["path"] for row in split}) for name, split in splits.items()}
    assert files == {"train": 5, "validation": 2, "test": 2}
    loaded = [row for split in splits.values() for row in split]
    assert sorted(Path(row["video"]["path"]).read_bytes() for row in loaded) == sorted(
        row["video"]["bytes"] for row in rows
    )
    by_id = {row["video_id"]: row for row in loaded}
    assert by_id["red.mp4"]["end"] is None
    assert by_id["red.mp4#t=0,1"]["end"] == 1
    assert by_id["red.mp4 (2)#t=0,1"]["video"]["path"] != by_id["red.mp4"]["video"]["path"]
    written = {row["video"]["path"]: os.stat(row["video"]["path"]).st_mtime_ns for row in loaded}
    again = [row for split in load_benchmark("captions", **options).values() for row in split]
    assert again == loaded
    assert {path: os.stat(path).st_mtime_ns for path in written} == written


def test_the_splits_of_a_dataset_are_kept(folder, tmp_path):
    (tmp_path / "hub").mkdir()
    content = (folder / "red.mp4").read_bytes()
    for split, count in (("train", 3), ("test", 2)):
        rows = [
            {"video": {"bytes": content, "path": f"{split}{i}.mp4"}, "caption": f"{split} {i}"} for i in range(count)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "hub" / f"{split}.parquet")
    splits = load_benchmark("captions", repo_id=str(tmp_path / "hub"), split=None)
    assert {name: list(split["caption"]) for name, split in splits.items()} == {
        "train": ["train 0", "train 1", "train 2"],
        "test": ["test 0", "test 1"],
    }
    with pytest.raises(ValueError, match="has no split validation; it has train, test"):
        load_benchmark("captions", repo_id=str(tmp_path / "hub"), split="validation")


def test_a_dataset_of_names_alone_says_what_to_do(tmp_path):
    (tmp_path / "hub").mkdir()
    table = pyarrow.Table.from_pylist([{"video": "a.mp4", "caption": "x"}] * 4)
    pyarrow.parquet.write_table(table, tmp_path / "hub" / "train.parquet")
    with pytest.raises(ValueError, match=r"row 0: the video is 'a.mp4'; expected its bytes.*data_dir="):
        load_benchmark("captions", repo_id=str(tmp_path / "hub"))
    with pytest.raises(ValueError, match=r"no column 'clip'; it has 'video', 'caption'.*video_column="):
        load_benchmark("captions", repo_id=str(tmp_path / "hub"), video_column="clip")


# -- from a folder to a model


def test_the_recipe_trains_and_its_checkpoint_evaluates(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # processes that decode take long to start
    write_table(folder, ROWS)
    overrides = [
        f"output_dir={tmp_path / 'run'}",
        f"model.clip={save_deep_clip(tmp_path / 'clip', [row['caption'] for row in ROWS])}",
        "model.config.temporal_num_attention_heads=1",
        f"data.data_dir={folder}",
        "data.num_workers=0",
        f"data.frame_cache_dir={tmp_path / 'frames'}",
        "train.total_batch_size=2",
        "train.epochs=2",
    ]
    results = train(load_recipe(RECIPE, overrides))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert results["model"] == "best"
    assert all(row["loss"] < 100 and "validation" in row for row in results["history"])
    command = ["evaluate", tmp_path / "run" / "best", "--benchmark", "captions", "--data-dir", folder]
    assert main([*map(str, command), "--num-workers=0", f"--output={tmp_path / 'report'}"]) == 0
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert report["metrics"] == results["test"]
    assert report["protocol"] == "own captions, test (split 0.8:0.1:0.1 with seed 0)"
    assert report["videos"] == 2


@pytest.mark.slow
def test_the_commands_of_the_guide_run_as_written(folder, tmp_path):
    """All but those that install; VIDEOS and CLIP are put in, and the tiny CLIP's width has one head."""
    write_table(folder, ROWS)
    clip = save_deep_clip(tmp_path / "clip", [row["caption"] for row in ROWS])
    guide = (REPOSITORY / "docs" / "own_data.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", guide, re.DOTALL) for line in block.splitlines()]
    commands = [line.split("  #")[0].strip() for line in commands if line.startswith("glccl ")]
    assert {line.split()[1] for line in commands} >= {"data", "evaluate", "train", "index", "search", "publish"}
    for name in ("recipes", "hub"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    for line in commands:
        words = [
            word.replace("VIDEOS", str(folder)).replace("CLIP", str(clip)).replace("first.mp4", "red.mp4")
            for word in shlex.split(line)
        ]
        if words[1] == "train":
            words.append("model.config.temporal_num_attention_heads=1")
        command = [sys.executable, "-m", "modeling_glccl.cli", *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
