"""The downloaded benchmarks: miniature twins of every layout, and the real annotation files where they are."""

import csv
import json
import pickle
import re
import shutil
import warnings
from itertools import chain
from pathlib import Path

import datasets
import miniatures
import pytest
from miniatures import DIDEMO_NAMES, LSMDC_CLIPS, VATEX_IDS, write_json, write_text, write_videos

from modeling_glccl.data import load_benchmark

pytestmark = pytest.mark.usefixtures("quiet")


def load(name, data_dir, split="test", **options):
    return load_benchmark(name, data_dir, split=split, **options)


def texts(name, data_dir, split="test", **options):
    return list(load(name, data_dir, split, with_videos=False, **options)["caption"])


# Every layout


@pytest.mark.parametrize("name", miniatures.BENCHMARKS)
def test_every_row_of_every_split_has_its_columns_and_a_video_that_exists(tmp_path, name):
    miniatures.BENCHMARKS[name](tmp_path)
    splits = load(name, tmp_path, None)
    assert {"train", "test"} <= set(splits)
    for split in splits.values():
        assert split.column_names == ["video", "video_id", "caption", "start", "end"]
        assert split.features["video"] == datasets.Video(decode=False)
        assert all(Path(row["video"]["path"]).is_file() for row in split)


@pytest.mark.parametrize("name", miniatures.BENCHMARKS)
def test_annotations_load_without_videos_from_the_folder_or_its_parent(tmp_path, name):
    folder = miniatures.BENCHMARKS[name](tmp_path, videos=False)
    dataset = load(name, tmp_path, with_videos=False)
    assert dataset.column_names == ["video_id", "caption", "start", "end"]
    assert list(dataset) == list(load(name, folder, with_videos=False))


def test_msrvtt_trains_on_every_caption_and_tests_on_the_sentences_of_the_list(tmp_path):
    miniatures.msrvtt(tmp_path)
    train = load("msrvtt", tmp_path, "train")
    assert list(train["video_id"]) == ["video1"] * 3 + ["video0"] * 3 + ["video7011"] * 3
    assert list(train["caption"])[:6] == ["ein schöner Tag", "rain", "sun", "a cat ", "a cat ", "a dog"]
    assert set(load("msrvtt", tmp_path, "train", train_list="7k")["video_id"]) == {"video0", "video1"}
    test = load("msrvtt", tmp_path)
    assert list(test["video_id"]) == ["video9770", "video7020"]
    assert list(test["caption"]) == ["a person in a café", "red, then blue"]


def test_msrvtt_reads_the_merged_json_too(tmp_path):
    folder = miniatures.msrvtt(tmp_path, videos=False)
    separate = texts("msrvtt", tmp_path, "train")
    parts = [folder / "anns" / f"{name}_videodatainfo.json" for name in ("train_val", "test")]
    merged = [sentence for part in parts for sentence in json.loads(part.read_text())["sentences"]]
    for part in parts:
        part.unlink()
    write_json(folder / "MSRVTT_data.json", {"sentences": merged})
    assert texts("msrvtt", tmp_path, "train") == separate


def test_captions_all_random_or_as_lists(tmp_path):
    miniatures.msrvtt(tmp_path, videos=False)
    several = load("msrvtt", tmp_path, "train", with_videos=False, captions="list")
    assert several[0]["captions"] == ["ein schöner Tag", "rain", "sun"]
    drawn = [texts("msrvtt", tmp_path, "train", captions="random", seed=seed) for seed in range(8)]
    assert all(len(captions) == 3 for captions in drawn)
    assert {captions[0] for captions in drawn} == {"ein schöner Tag", "rain", "sun"}
    assert texts("msrvtt", tmp_path, "train", captions="random", seed=3) == drawn[3]


def test_didemo_joins_descriptions_and_follows_its_file_names(tmp_path):
    miniatures.didemo(tmp_path)
    rows = {row["video_id"]: row for row in load("didemo", tmp_path, "val")}
    captions = [rows[name]["caption"] for name in DIDEMO_NAMES]
    assert captions == ["first aa second aa", "first bb.", "first cc", "first dd"]
    files = [rows[name]["video"]["path"].rpartition("/")[2] for name in DIDEMO_NAMES]
    assert files == ["1@N00_1_aa.mov", "2@N00_2_bb..mp4", "3@N00_3_cc.m4v", "4@N00_4_dd.avi.mp4"]
    assert {(row["start"], row["end"]) for row in rows.values()} == {(0, 31)}
    merged = load("didemo", tmp_path, "val", merge_by_stem=True)
    assert {row["video_id"]: row["caption"] for row in merged}[DIDEMO_NAMES[2]] == "elsewhere cc first cc"


@pytest.mark.parametrize("form", ["id to captions", "id to enCap", "official"])
def test_vatex_reads_captions_in_every_form(tmp_path, form):
    miniatures.vatex(tmp_path, form)
    sizes = {name: (len(split), set(split["video_id"])) for name, split in load("vatex", tmp_path, None).items()}
    first, second, third = VATEX_IDS
    assert sizes == {"train": (10, {first}), "validation": (10, {second}), "test": (20, {second, third})}
    assert texts("vatex", tmp_path)[:2] == [f"caption {i} of {VATEX_IDS[1]}" for i in range(2)]


def test_vatex_finds_clips_inside_whole_youtube_videos(tmp_path):
    folder = miniatures.vatex(tmp_path, videos=False)
    write_videos(folder / "videos", f"{VATEX_IDS[1]}.mp4", "_bC-eFgHiJk.mp4", frames=3)
    rows = {row["video_id"]: row for row in load("vatex", tmp_path)}
    assert rows[VATEX_IDS[1]]["start"] is None
    clip = rows[VATEX_IDS[2]]
    assert clip["video"]["path"].endswith("/_bC-eFgHiJk.mp4")
    assert (clip["start"], clip["end"]) == (100, 110)


def test_msvd_reads_words_from_a_pickle_as_it_reads_json(tmp_path):
    folder = miniatures.msvd(tmp_path, videos=False)
    from_json = texts("msvd", tmp_path)
    captions = json.loads((folder / "captions_msvd.json").read_text())
    (folder / "captions_msvd.json").unlink()
    words = {video: [text.split() for text in several] for video, several in captions.items()}
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps(words))
    assert texts("msvd", tmp_path) == from_json
    assert len(from_json) == 5
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps({"-cde_0_10": [print]}))
    with pytest.raises(ValueError, match=r"raw-captions\.pkl.*builtins\.print"):
        texts("msvd", tmp_path)


def test_activitynet_joins_sentences_and_finds_both_kinds_of_file_names(tmp_path):
    miniatures.activitynet(tmp_path)
    rows = list(load("activitynet", tmp_path))
    assert [(row["video_id"], row["caption"], row["start"], row["end"]) for row in rows] == [
        ("v_-bbbbbbbbbb", "Three. Four.", 0, 2),
        ("v_ccccccccccc", "Five.", 0, 3),
    ]
    assert [row["video"]["path"].rpartition("/")[2] for row in rows] == ["-bbbbbbbbbb.mp4", "v_ccccccccccc.mkv"]
    assert list(load("activitynet", tmp_path, "val_1")["video_id"]) == [row["video_id"] for row in rows]
    assert list(load("activitynet", tmp_path, id_lists=True)["video_id"]) == ["v_ccccccccccc"]


def test_lsmdc_keeps_quotes_and_names_with_dots(tmp_path):
    folder = miniatures.lsmdc(tmp_path)
    rows = list(load("lsmdc", tmp_path))
    assert [(row["video_id"], row["caption"], row["start"]) for row in rows] == [
        (clip, f'SOMEONE says "no", {i}.', None) for i, clip in enumerate(LSMDC_CLIPS)
    ]
    assert len(load("lsmdc", tmp_path, "train")) == 3
    write_text(folder / "LSMDC16_annos_val.csv", "clip\tonly three\tfields\n")
    with pytest.raises(ValueError, match=r"LSMDC16_annos_val\.csv, line 1: 3 fields"):
        load("lsmdc", tmp_path, "val")


# Annotations that cannot be used


def msrvtt_sentence(caption):
    return {"sentences": [{"video_id": "video1", "caption": caption}]}


def activitynet_video(duration, sentences=("a",)):
    return {"v_a": {"duration": duration, "sentences": sentences}}


MSRVTT, MSRVTT_TEST = "anns/train_val_videodatainfo.json", "anns/MSRVTT_JSFUSION_test.csv"
DIDEMO = "test_data.json"
NAME = DIDEMO_NAMES[0]


@pytest.mark.parametrize(
    ("name", "split", "file", "content", "problem"),
    [
        ("msrvtt", "test", MSRVTT_TEST, "key;video_id;sentence\nr;v;a cat\n", "line 2: no 'video_id'"),
        ("msrvtt", "test", MSRVTT_TEST, "video_id,sentence\nvideo9770,\n", "line 2, sentence: 'None'"),
        ("msrvtt", "train", MSRVTT, "<!DOCTYPE html>", "no JSON: .*'<!DOCTYPE html>'"),
        ("msrvtt", "train", MSRVTT, "9" * 5000, "no JSON: Exceeds the limit"),
        ("msrvtt", "train", MSRVTT, {"videos": []}, "no 'sentences' among 'videos'"),
        ("msrvtt", "train", MSRVTT, msrvtt_sentence(None), "0, caption: 'None' is of type NoneType; expected str"),
        ("msrvtt", "train", MSRVTT, msrvtt_sentence(" "), "video1: a caption is ' ', which is empty"),
        ("didemo", "test", DIDEMO, {NAME: "a"}, "is of type dict; expected list"),
        ("didemo", "test", DIDEMO, [{"video": NAME}], "moment 0: no 'description' among 'video'"),
        ("didemo", "test", DIDEMO, [{"video": NAME, "description": None}], "moment 0, description: 'None'"),
        ("vatex", "test", "ref_captions.json", {VATEX_IDS[1]: "a cat"}, "'a cat' is of type str; expected dict"),
        ("vatex", "test", "ref_captions.json", [{"enCap": ["a cat"]}], "record 0: no 'videoID'"),
        ("vatex", "test", "ref_captions.json", {VATEX_IDS[1]: ["a cat", None]}, "a caption is None; expected a text"),
        ("msvd", "test", "captions_msvd.json", {"def_3_4": "a cat"}, "def_3_4: 'a cat' is of type str; expected list"),
        ("msvd", "test", "captions_msvd.json", {"def_3_4": [["a", 5]]}, "def_3_4: '5' is of type int; expected str"),
        ("msvd", "test", "captions_msvd.json", {"def_3_4": []}, r"def_3_4: captions are \[\]"),
        ("activitynet", "test", "val_1.json", activitynet_video(None), "v_a.*duration.*None"),
        ("activitynet", "test", "val_1.json", activitynet_video(0), "v_a.*duration.*0; expected seconds"),
        ("activitynet", "test", "val_1.json", activitynet_video(1e39), "v_a.*duration is 1e.39; expected seconds"),
        ("activitynet", "test", "val_1.json", activitynet_video("9"), "v_a.*duration.*'9' is of type str"),
        ("activitynet", "test", "val_1.json", activitynet_video(1, "a b"), "v_a, sentences: 'a b'"),
        ("lsmdc", "test", "LSMDC16_challenge_1000_publictect.csv", "a\t0\t0\t0\t0\t \n", "a: a caption is ' '"),
    ],
)
def test_a_record_that_cannot_be_used_is_named_with_its_file(tmp_path, name, split, file, content, problem):
    folder = miniatures.BENCHMARKS[name](tmp_path, videos=False)
    (write_text if isinstance(content, str) else write_json)(folder / file, content)
    with pytest.raises(ValueError, match=problem) as error:
        texts(name, tmp_path, split)
    assert str(folder / file) in str(error.value)


@pytest.mark.parametrize("content", ["", "video5\n"])
def test_a_list_of_no_video_with_captions_is_an_error(tmp_path, content):
    write_text(miniatures.msvd(tmp_path, videos=False) / "test_list.txt", content)
    with pytest.raises(ValueError, match="msvd test: no video of the split has captions"):
        load("msvd", tmp_path, with_videos=False)


def test_another_encoding_is_named_and_a_line_separator_is_text(tmp_path):
    folder = miniatures.lsmdc(tmp_path, videos=False)
    path = folder / "LSMDC16_challenge_1000_publictect.csv"
    write_text(path, "a\t0\t0\t0\t0\tone\u2028more\r\nb\t0\t0\t0\t0\ttwo\n")
    assert texts("lsmdc", tmp_path) == ["one\u2028more", "two"]
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(ValueError, match=r"publictect\.csv: UTF-16; expected UTF-8"):
        texts("lsmdc", tmp_path)


# Missing videos, counts, caches, arguments


def test_missing_videos_are_an_error_that_names_how_many_and_the_first_ten(tmp_path):
    folder = miniatures.msrvtt(tmp_path)
    rows = [f"ret{i},msr{i},video{i},sentence {i}" for i in range(8000, 8012)]
    with (folder / "anns" / "MSRVTT_JSFUSION_test.csv").open("a", encoding="utf-8") as file:
        file.write("\n".join(rows) + "\n")
    with pytest.raises(FileNotFoundError, match=r"12 of 14 videos are missing: video8000, .*video8009, ") as error:
        load("msrvtt", tmp_path)
    assert "video8010" not in str(error.value)


def test_missing_videos_are_skipped_only_on_demand_and_counted(tmp_path, capsys):
    folder = miniatures.msrvtt(tmp_path)
    assert len(load("msrvtt", tmp_path, missing="skip")) == 2
    assert "msrvtt test: 2 of 2 videos found" in capsys.readouterr().out
    (folder / "videos" / "TestVideo" / "video7020.mp4").unlink()
    skipped = load("msrvtt", tmp_path, missing="skip")
    assert list(skipped["video_id"]) == ["video9770"]
    assert "msrvtt test: 1 of 2 videos found" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="1 of 2 videos are missing: video7020"):
        load("msrvtt", tmp_path)
    shutil.rmtree(folder / "videos")
    with pytest.raises(FileNotFoundError, match="none of 2 videos"):
        load("msrvtt", tmp_path, missing="skip")


def test_counts_that_are_not_canonical_are_warned_about_with_both(tmp_path):
    miniatures.msrvtt(tmp_path, videos=False)
    with pytest.warns(match="2 videos and 2 captions, where MSR-VTT 1k-A test has 1,000 videos and 1,000"):
        dataset = load("msrvtt", tmp_path, with_videos=False)
    assert "1k-A" not in dataset.info.description


def test_a_change_of_annotations_or_videos_is_noticed(tmp_path):
    folder = miniatures.msvd(tmp_path)
    before = load("msvd", tmp_path, "val").cache_files
    assert load("msvd", tmp_path, "val").cache_files == before != []  # is read from there
    captions = json.loads((folder / "captions_msvd.json").read_text())
    write_json(folder / "captions_msvd.json", captions | {"bcd_2_9": ["changed"]})
    assert list(load("msvd", tmp_path, "val")["caption"]) == ["changed"]
    (folder / "videos" / "YouTubeClips" / "bcd_2_9.avi").rename(folder / "videos" / "bcd_2_9.avi")
    assert load("msvd", tmp_path, "val")[0]["video"]["path"] == str(folder / "videos" / "bcd_2_9.avi")


def test_videos_in_an_archive_are_extracted(tmp_path):
    folder = miniatures.msvd(tmp_path)
    shutil.make_archive(str(folder / "YouTubeClips"), "tar", folder / "videos")
    shutil.rmtree(folder / "videos")
    assert load("msvd", tmp_path)[0]["video"]["path"] == str(folder / "videos" / "YouTubeClips" / "-cde_0_10.avi")


def test_videos_may_lie_elsewhere(tmp_path):
    folder = miniatures.msvd(tmp_path)
    (folder / "videos").rename(tmp_path / "compressed")
    assert len(load("msvd", tmp_path, videos_dir=str(tmp_path / "compressed"))) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split='dev' of msrvtt must be one of train, test"),
        ({"train_lists": "7k"}, "unknown option 'train_lists' of msrvtt .did you mean train_list"),
        ({"train_list": "1k"}, "train_list='1k'"),
        ({"captions": "first"}, "captions='first'"),
        ({"videos_dir": 5}, "videos_dir=5 must be of type str"),
        ({"seed": []}, r"seed=\[\] must be of type int"),
        ({"missing": "ignore"}, "missing='ignore'"),
        ({"data_dir": None}, "msrvtt needs data_dir .* or repo_id"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_benchmark("msrvtt", **{"data_dir": tmp_path, **arguments})


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load("msrvtt", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no MSRVTT_JSFUSION_test\.csv"):
        load("msrvtt", tmp_path)


# Real annotation files


@pytest.fixture
def annotations(reference_dir, quiet):
    """Their folder; a count that is not canonical, of videos or captions, fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield reference_dir / "data" / "annotations"


def test_real_msrvtt_tests_on_1k_a_and_trains_on_other_videos(annotations):
    test = load("msrvtt", annotations, with_videos=False)
    assert test.info.description == "MSR-VTT 1k-A test"
    assert len(test) == len(set(test["video_id"])) == 1000
    assert len(set(test["caption"])) == 995
    captions = {}
    for name in ("train_val", "test"):
        for item in json.loads((annotations / "msrvtt" / f"{name}_videodatainfo.json").read_bytes())["sentences"]:
            captions.setdefault(item["video_id"], set()).add(item["caption"])
    assert sum(row["caption"] not in captions[row["video_id"]] for row in test) == 35
    assert test[0]["caption"] == "a person is connecting something to system"
    for train_list, videos, repeated in (("9k", 9000, 13_252), ("7k", 7010, 10_380)):
        train = load("msrvtt", annotations, "train", with_videos=False, train_list=train_list, captions="list")
        assert train.info.description == f"MSR-VTT {train_list} train"
        assert not set(train["video_id"]) & set(test["video_id"])
        assert 20 * videos - sum(len(set(several)) for several in train["captions"]) == repeated


@pytest.mark.parametrize("split", ["val", "test"])
def test_real_didemo_paragraphs(annotations, split):
    dataset = load("didemo", annotations, split, with_videos=False)
    paragraphs = json.loads((annotations / "didemo" / f"derived_paragraphs_{split}.json").read_bytes())
    assert dict(zip(dataset["video_id"], dataset["caption"], strict=True)) == paragraphs
    # An independent loader's text of each video.
    with (annotations / "didemo" / f"tmass_didemo_{split}_label.csv").open(newline="") as file:
        published = {row["video_path"].rpartition("/")[2]: row["text"] for row in csv.DictReader(file)}
    assert set(published) <= set(paragraphs)
    assert all(" ".join(paragraphs[name].split()) == " ".join(text.split()) for name, text in published.items())


def test_real_didemo_merged_by_stem_has_more_moments(annotations):
    moments = json.loads((annotations / "didemo" / "test_data.json").read_bytes())
    exact = texts("didemo", annotations)
    merged = texts("didemo", annotations, merge_by_stem=True)
    assert len(exact) == len(merged) == 1004
    # Joined by one space, n descriptions make n - 1 spaces more.
    total = sum(len(moment["description"]) + 1 for moment in moments) - 1004
    assert sum(map(len, merged)) == total
    assert sum(map(len, exact)) < total


def test_real_msvd(annotations):
    splits = load("msvd", annotations, None, with_videos=False)
    assert splits["train"][0]["caption"] == "a squirrel is eating a peanut in it s shell"


def test_real_activitynet(annotations):
    first = load("activitynet", annotations, None, with_videos=False)["test"][0]
    assert first["video_id"] == "v_uqiMw7tQ1Cc"
    assert first["caption"].startswith("A weight lifting tutorial is given. The coach helps")
    assert (first["start"], first["end"]) == (0, 56)
    load("activitynet", annotations, None, with_videos=False, id_lists=True)


def test_real_vatex_lists_and_partial_captions(annotations, tmp_path):
    folder = tmp_path / "vatex"
    folder.mkdir()
    for name in ("train", "val", "test"):
        (folder / f"{name}_list.txt").symlink_to(annotations / "vatex" / f"{name}_list.txt")
    ids = {name: (folder / f"{name}_list.txt").read_text().split() for name in ("train", "val", "test")}
    assert {name: len(set(several)) for name, several in ids.items()} == {"train": 25_991, "val": 1500, "test": 1500}
    for clip in chain.from_iterable(ids.values()):
        start, end = re.fullmatch(r".{11}_(\d{6})_(\d{6})", clip).groups()
        assert 0 <= int(start) < int(end)
    (folder / "ref_captions.json").symlink_to(annotations / "vatex" / "derived_partial_tokenised_val.json")
    for split, videos in {"val": 1395, "test": 1415}.items():
        with pytest.warns(UserWarning, match=f"{videos:,} videos and {5 * videos:,} captions, where VATEX HGR"):
            dataset = load("vatex", tmp_path, split, with_videos=False)
        assert len(dataset) == 5 * videos


def test_real_clips_have_their_official_captions_and_windows(reference_dir, capsys):
    annotations = reference_dir / "data" / "annotations"
    clips = reference_dir / "data" / "msrvtt_clips"
    dataset = load("msrvtt", annotations, missing="skip", videos_dir=str(clips))
    official = {item["video_id"]: item for item in json.loads((clips / "captions_official.json").read_text())}
    assert {row["video_id"]: row["caption"] for row in dataset} == {
        video: item["jsfusion_test_sentence"] for video, item in official.items()
    }
    assert f"{len(official)} of 1,000 videos found" in capsys.readouterr().out
    clips = reference_dir / "data" / "activitynet_clips"
    for split, expected in (("train", ("v_ZNVhz7ctTq0", 15)), ("test", ("v_GGSY1Qvo990", 19))):
        (row,) = load("activitynet", annotations, split, missing="skip", videos_dir=str(clips))
        assert (row["video_id"], row["end"]) == expected
