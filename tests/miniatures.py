"""Miniature twins of the benchmarks: the same layouts, names and quirks, a few tiny videos."""

import csv
import json
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow
import pyarrow.parquet
from videos import write_video

VATEX_IDS = ("-_a_b1c2d3e_000012_000022", "AbCdEfGhIjK_000000_000010", "_bC-eFgHiJk_000100_000110")
DIDEMO_NAMES = ("1@N00_1_aa.mov", "2@N00_2_bb.", "3@N00_3_cc.avi", "4@N00_4_dd.3gp")


def write_text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def write_json(path: Path, content) -> Path:
    return write_text(path, json.dumps(content, ensure_ascii=False))


def write_table(path: Path, rows: list[dict]) -> Path:
    """One's own captions, in the form that the suffix names."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in columns}), path)
        return path
    if path.suffix == ".jsonl":
        # A line separator is written as it is.
        return write_text(path, "".join(json.dumps(row).replace("\\u2028", "\u2028") + "\n" for row in rows))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


@lru_cache
def video(suffix: str, frames: int) -> bytes:
    """Encoded once for all that look alike."""
    with TemporaryDirectory() as folder:
        return write_video(Path(folder, f"a{suffix}"), frames, fps=10).read_bytes()


def write_videos(folder: Path, *names: str, frames: int = 30, container: str = "") -> None:
    for path in (folder / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video(container or path.suffix, frames))


def sentences(video_id: str, *captions: str) -> list[dict]:
    return [{"video_id": video_id, "caption": caption, "sen_id": i} for i, caption in enumerate(captions)]


def msrvtt(root: Path, videos: bool = True) -> Path:
    """Annotations one level down; captions with edge white space, an accent, a comma, and a repeated one."""
    folder = root / "msrvtt"
    write_text(
        folder / "anns" / "MSRVTT_JSFUSION_test.csv",
        "key,vid_key,video_id,sentence\n"
        "ret0,msr9770,video9770,a person in a café\n"
        'ret1,msr7020,video7020,"red, then blue"\n',
    )
    write_text(folder / "anns" / "MSRVTT_train.9k.csv", "video_id\nvideo1\nvideo0\nvideo7011\n")
    write_text(folder / "anns" / "MSRVTT_train.7k.csv", "video_id\nvideo1\nvideo0\n")
    train = sentences("video0", "a cat ", "a cat ", "a dog") + sentences("video1", "ein schöner Tag", "rain", "sun")
    test = sentences("video7011", "one", "two", "three") + sentences("video9770", "not the test sentence")
    write_json(folder / "anns" / "train_val_videodatainfo.json", {"videos": [], "sentences": train})
    write_json(folder / "anns" / "test_videodatainfo.json", {"videos": [], "sentences": test})
    if videos:
        write_videos(folder / "videos", "video0.mp4", "more/video1.mkv")
        write_videos(folder / "videos", "TestVideo/video9770.mp4", "TestVideo/video7020.mp4", "video7011.mp4")
    return folder


def moment(video: str, description: str) -> dict:
    return {"video": video, "description": description, "times": [[0, 0]], "num_segments": 6, "annotation_id": 0}


def didemo(root: Path, videos: bool = True) -> Path:
    """A name that ends in a dot, one that stands twice under different extensions, one not on the list."""
    folder = root / "didemo"
    moments = [
        moment(DIDEMO_NAMES[1], "first bb."),
        moment(DIDEMO_NAMES[0], "first aa"),
        moment("3@N00_3_cc.mp4", "elsewhere cc"),
        moment(DIDEMO_NAMES[2], "first cc"),
        moment(DIDEMO_NAMES[0], "second aa"),
        moment("9@N00_9_zz.mov", "not on the list"),
        moment(DIDEMO_NAMES[3], "first dd"),
    ]
    for split in ("train", "val", "test"):
        write_text(folder / f"{split}_list.txt", "\n".join(DIDEMO_NAMES) + "\n")
        write_json(folder / f"{split}_data.json", moments)
    if videos:
        # Exact name; name + .mp4; another extension; another extension + .mp4.
        names = ("1@N00_1_aa.mov", "2@N00_2_bb..mp4", "sub/3@N00_3_cc.m4v", "4@N00_4_dd.avi.mp4")
        write_videos(folder / "videos", *names, frames=20, container=".mp4")
    return folder


def vatex(root: Path, form: str = "id to captions", videos: bool = True) -> Path:
    """Ids that start with '-' or '_' and contain '_'; captions in each form that circulates."""
    folder = root / "vatex"
    for split, ids in {"train": VATEX_IDS[:1], "val": VATEX_IDS[1:2], "test": VATEX_IDS[1:]}.items():
        write_text(folder / f"{split}_list.txt", "\n".join(ids) + "\n")
    captions = {
        clip: [f"caption {i} of {clip}" for i in range(10)] for clip in (*VATEX_IDS, "zzzzzzzzzzz_000000_000010")
    }
    records = [{"videoID": clip, "enCap": texts, "chCap": ["一个人"]} for clip, texts in captions.items()]
    if form == "id to captions":
        write_json(folder / "ref_captions.json", captions)
    elif form == "id to enCap":
        write_json(folder / "vatex_data.json", {record["videoID"]: record for record in records})
    else:
        write_json(folder / "vatex_training_v1.0.json", records[:1])
        write_json(folder / "vatex_validation_v1.0.json", records[1:])
    if videos:
        write_videos(folder / "videos", *(f"{clip}.mp4" for clip in VATEX_IDS))
    return folder


def msvd(root: Path, videos: bool = True) -> Path:
    folder = root / "msvd"
    ids = {"train": ["-abc_1_5"], "val": ["bcd_2_9"], "test": ["-cde_0_10", "def_3_4"]}
    for split, names in ids.items():
        write_text(folder / f"{split}_list.txt", "\n".join(names) + "\n")
    captions = {name: [f"{name} one", f"{name} two"] for names in ids.values() for name in names}
    captions["def_3_4"].append("a third")
    write_json(folder / "captions_msvd.json", captions)
    if videos:
        write_videos(folder / "videos", *(f"YouTubeClips/{name}.avi" for names in ids.values() for name in names))
    return folder


def activitynet(root: Path, videos: bool = True) -> Path:
    """Sentences with leading spaces; an id without captions and the reverse; files named with and without v_."""
    folder = root / "activitynet"
    train = {"v_aaaaaaaaaaa": {"duration": 2.2, "timestamps": [[0, 2]], "sentences": ["One.", "  Two."]}}
    val = {
        "v_-bbbbbbbbbb": {"duration": 1.5, "timestamps": [[0, 1]], "sentences": ["Three.", " Four. "]},
        "v_ccccccccccc": {"duration": 3.0, "timestamps": [[0, 1]], "sentences": [" Five."]},
    }
    write_json(folder / "train.json", train)
    write_json(folder / "val_1.json", val)
    write_json(folder / "train_ids.json", ["v_zzzzzzzzzzz", "v_aaaaaaaaaaa"])
    write_json(folder / "val_ids.json", ["v_ccccccccccc", "v_zzzzzzzzzzz"])
    if videos:
        write_videos(folder / "videos", "v_aaaaaaaaaaa.mp4", "-bbbbbbbbbb.mp4", "val/v_ccccccccccc.mkv")
    return folder


LSMDC_CLIPS = ("1012_Movie_00.05.16.065-00.05.21.941", "1012_Movie_00.05.22.000-00.05.23.500")


def lsmdc(root: Path, videos: bool = True) -> Path:
    """Clip names with dots, sentences with quotes, a clip that stands twice in the training table."""
    folder = root / "lsmdc"
    lines = [f'{clip}\t00.01\t00.02\t00.03\t00.04\tSOMEONE says "no", {i}.' for i, clip in enumerate(LSMDC_CLIPS)]
    write_text(folder / "LSMDC16_challenge_1000_publictect.csv", "\n".join(lines) + "\n")
    write_text(folder / "LSMDC16_annos_val.csv", lines[0] + "\n")
    write_text(folder / "LSMDC16_annos_training.csv", "\n".join([*lines, lines[0].replace(", 0", ", again")]) + "\n")
    if videos:
        write_videos(folder / "videos", *(f"1012_Movie/{clip}.avi" for clip in LSMDC_CLIPS))
    return folder


BENCHMARKS = {make.__name__: make for make in (msrvtt, didemo, vatex, msvd, activitynet, lsmdc)}
