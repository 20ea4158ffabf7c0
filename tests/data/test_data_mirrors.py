"""Copies on the Hub, here as local folders of Parquet files in the shapes in which they circulate."""

import json
import shutil
from pathlib import Path

import datasets
import miniatures
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from miniatures import DIDEMO_NAMES, VATEX_IDS, write_text, write_videos

from modeling_glccl.data import load_benchmark, mirrors

pytestmark = pytest.mark.usefixtures("quiet")


def mirror(folder: Path, **files: list[dict]) -> str:
    """A repository with a Parquet file for every `config_split`, or `split` of the only configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    configs = {}
    for name, rows in files.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
        config, _, split = name.rpartition("__")
        configs.setdefault(config or "default", []).append({"split": split, "path": f"{name}.parquet"})
    listing = [{"config_name": config, "data_files": data_files} for config, data_files in configs.items()]
    write_text(folder / "README.md", f"---\nconfigs: {json.dumps(listing)}\n---\n")
    return str(folder)


def zipped(folder: Path, archive: str, *names: str) -> None:
    write_videos(folder / "made", *(f"video/{name}" for name in names), frames=10)
    shutil.make_archive(str(folder / archive), "zip", folder / "made")
    shutil.rmtree(folder / "made")


def msrvtt_mirror(folder: Path) -> str:
    """As friedrichor/MSR-VTT: three configurations, file names, a zip of video/videoN.mp4."""
    test = [{"video_id": f"video{i}", "video": f"video{i}.mp4", "caption": f"test {i}"} for i in (9770, 7020)]
    train = [
        {"video_id": f"video{i}", "video": f"video{i}.mp4", "caption": [f"{i} a", f"{i} b"], "source": "MSR-VTT"}
        for i in range(2)
    ]
    repo = mirror(folder, test_1k__test=test, train_9k__train=train, train_7k__train=train[:1])
    zipped(folder, "MSRVTT_Videos", "video9770.mp4", "video7020.mp4", "video0.mp4", "video1.mp4")
    return repo


def test_msrvtt_with_strings_lists_and_a_zip(tmp_path, monkeypatch):
    write_text(tmp_path / "video7020.mp4", "a file of this name where the user happens to be")
    monkeypatch.chdir(tmp_path)
    repo = msrvtt_mirror(tmp_path / "repo")
    test = load_benchmark("msrvtt", repo_id=repo)
    assert test.column_names == ["video", "video_id", "caption", "start", "end"]
    assert list(test["caption"]) == ["test 9770", "test 7020"]
    assert test[1]["video"]["path"].endswith("/video/video7020.mp4")
    train = load_benchmark("msrvtt", repo_id=repo, split="train", data_dir=tmp_path / "videos here")
    assert list(train["caption"]) == ["0 a", "0 b", "1 a", "1 b"]
    assert train[3]["video"]["path"] == str(tmp_path / "videos here" / "videos" / "video" / "video1.mp4")
    assert len(load_benchmark("msrvtt", repo_id=repo, split="train", train_list="7k", with_videos=False)) == 2


def test_a_remote_repository_is_asked_for_its_archives_only_if_videos_are_wanted(tmp_path, monkeypatch):
    """The Hub is replaced by a local copy: what is asked of it is what counts."""
    repo = msrvtt_mirror(tmp_path / "repo")
    asked = []

    def snapshot_download(repo_id, repo_type, revision, allow_patterns):
        asked.append((repo_id, repo_type, "*.zip" in allow_patterns))
        return repo

    for name in ("get_dataset_config_names", "get_dataset_split_names", "load_dataset"):
        original = getattr(datasets, name)
        monkeypatch.setattr(
            datasets,
            name,
            lambda repo_id, *args, original=original, **kwargs: original(repo, *args, **kwargs | {"revision": None}),
        )
    monkeypatch.setattr(mirrors, "snapshot_download", snapshot_download)
    assert len(load_benchmark("msrvtt", repo_id="someone/MSR-VTT", with_videos=False)) == 2
    assert asked == []
    test = load_benchmark("msrvtt", repo_id="someone/MSR-VTT")
    assert asked == [("someone/MSR-VTT", "dataset", True)]
    assert Path(test[0]["video"]["path"]).is_file()


@pytest.mark.parametrize("kind", ["bytes", "struct", "bytes in struct", "absolute path", "large string", "Video"])
def test_videos_of_any_type_are_neither_decoded_nor_lost(tmp_path, kind):
    write_videos(tmp_path, "one.mp4", "two.mp4", frames=10)
    paths = [tmp_path / f"{name}.mp4" for name in ("one", "two")]
    videos = {
        "bytes": [path.read_bytes() for path in paths],
        "struct": [{"bytes": None, "path": str(path)} for path in paths],
        "bytes in struct": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
    }.get(kind, list(map(str, paths)))
    columns = {"video_id": ["one", "two"], "video": videos, "caption": [["one 1", "one 2"], ["two 1", "two 2"]]}
    table = datasets.Dataset.from_dict(columns)
    if kind == "large string":
        table = table.cast_column("video", datasets.Value("large_string"))
    if kind == "Video":
        table = table.cast_column("video", datasets.Video(decode=False))
    table.to_parquet(tmp_path / "repo" / "test.parquet")
    test = load_benchmark("msvd", repo_id=str(tmp_path / "repo"))
    assert list(test["caption"]) == ["one 1", "one 2", "two 1", "two 2"]
    assert test.features["video"] == datasets.Video(decode=False)
    for row in test:
        assert Path(row["video"]["path"]).read_bytes() == (tmp_path / f"{row['video_id']}.mp4").read_bytes()


def test_didemo_without_a_column_of_ids(tmp_path):
    ids = [name.rpartition(".")[0] for name in DIDEMO_NAMES]
    rows = [{"video": f"video/{name}.mp4", "caption": ["goes out", "comes back"]} for name in ids]
    repo = mirror(tmp_path / "repo", train=rows[:1], test=rows)
    zipped(tmp_path / "repo", "DiDeMo", *(f"{name}.mp4" for name in ids))
    test = load_benchmark("didemo", repo_id=repo)
    assert list(test["video_id"]) == ids
    assert set(test["caption"]) == {"goes out comes back"}
    assert set(test["end"]) == {31}


def test_vatex_takes_the_videos_of_the_split_list_from_all_splits(tmp_path):
    rows = [
        {"videoID": clip, "enCap": [f"{clip} {i}" for i in range(10)], "chCap": []}
        for clip in (*VATEX_IDS, "zzzzzzzzzzz_000000_000010")
    ]
    repo = mirror(tmp_path / "repo", train=rows[2:], test=rows[:2])
    miniatures.vatex(tmp_path, videos=False)
    listed = load_benchmark("vatex", tmp_path, repo_id=repo, with_videos=False)
    assert list(listed.unique("video_id")) == list(VATEX_IDS[1:])
    assert len(listed) == 20
    with pytest.warns(UserWarning, match="2 videos and 20 captions, where VATEX HGR test has 1,500"):
        whole = load_benchmark("vatex", repo_id=repo, with_videos=False)
    assert list(whole.unique("video_id")) == list(VATEX_IDS[:2])


def test_an_embedded_clip_of_vatex_counts_as_a_whole_and_of_a_youtube_video_the_seconds(tmp_path):
    for name, seconds in (("clips", (None, None)), ("whole", (100, 110))):
        write_videos(tmp_path / name, "_bC-eFgHiJk.mp4", frames=3)
        content = (tmp_path / name / "_bC-eFgHiJk.mp4").read_bytes()
        video = content if name == "clips" else "_bC-eFgHiJk.mp4"
        row = {"videoID": VATEX_IDS[2], "enCap": ["text"], "video": video}
        (test,) = load_benchmark("vatex", repo_id=mirror(tmp_path / name, test=[row]))
        assert (test["start"], test["end"]) == seconds
        assert Path(test["video"]["path"]).read_bytes() == content


def test_activitynet_sentences_and_durations(tmp_path):
    row = {"video_id": "v_aaaaaaaaaaa", "video": "v_aaaaaaaaaaa.mp4", "caption": ["One.", " Two."], "duration": 2.2}
    repo = mirror(tmp_path / "repo", train=[row], val1=[row])
    write_videos(tmp_path / "repo" / "videos", "v_aaaaaaaaaaa.mp4", frames=10)
    (test,) = load_benchmark("activitynet", repo_id=repo)
    assert (test["caption"], test["start"], test["end"]) == ("One. Two.", 0, 3)


def test_columns_configurations_and_splits_can_be_named(tmp_path):
    repo = mirror(tmp_path / "repo", special__evaluation=[{"clip": "a", "what": "text", "video": "a.mp4"}])
    with pytest.raises(ValueError, match=r"no split for msvd test.*has splits evaluation.*configurations special"):
        load_benchmark("msvd", repo_id=repo, with_videos=False)
    hub = {"config_name": "special", "split": "evaluation"}
    with pytest.raises(ValueError, match=r"no column .*for 'caption'; it has clip, what, video"):
        load_benchmark("msvd", repo_id=repo, with_videos=False, hub=hub)
    hub["columns"] = {"video_id": "clip", "caption": "what"}
    assert load_benchmark("msvd", repo_id=repo, with_videos=False, hub=hub)[0]["caption"] == "text"
    with pytest.raises(ValueError, match="'words' must be one of"):
        load_benchmark("msvd", repo_id=repo, hub=hub | {"columns": {"words": "what"}})


def test_missing_videos_of_a_mirror_are_named(tmp_path):
    repo = mirror(tmp_path / "repo", test=[{"video_id": "gone", "video": "gone.mp4", "caption": "text"}])
    with pytest.raises(FileNotFoundError, match="1 of 1 videos are missing: gone"):
        load_benchmark("msvd", repo_id=repo)


def test_ids_of_a_mirror_do_not_lead_out_of_the_folder(tmp_path):
    rows = [{"video_id": "../../../evil", "video": b"video", "caption": "text"}]
    repo = mirror(tmp_path / "repo", test=rows)
    with pytest.raises(ValueError, match="leads out"):
        load_benchmark("msvd", repo_id=repo, data_dir=tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("evil*"))
