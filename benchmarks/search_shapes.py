r"""What searches find, with a trained model, in the test videos of the shapes benchmark.

    python benchmarks/search_shapes.py --model runs/shapes/model/best                  # captions, beside FAISS
    python benchmarks/search_shapes.py --part queries --model hub/models/glccl-shapes  # examples, several sentences
    python benchmarks/search_shapes.py --part clips --model hub/models/glccl-shapes    # long videos, cut several ways

Prints tables and writes benchmarks/results/search_<part>_<hardware>.csv. `moments` are those of the captions whose
events follow each other, in the video that the caption describes: how many spans overlap the true one with an IoU of
0.5 and 0.7. FAISS searches mean-pooled frames of the same model with the sentence (IndexFlatIP).

`queries` asks the same videos for events A and B of a random one of them, named by colour and shape, or by colour,
shape and action: mean average precision (percent) of the ways to ask for videos with A and B, with A and not B, and
with what an example shows. Videos that differ from that of the example in one event only are left out.

`clips` joins the same videos end to end, eight at a time and at random, and cuts them into clips in several ways; the
first row indexes the short videos as they are. `moment R@1`: for how many percent of the captions whose events follow
each other the best result is the right video, with a moment that overlaps the true one with an IoU of 0.5. `cpu_s` is
processor time of decoding and encoding. The last rows: what finding the shots costs in larger videos.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import errors

import av
import faiss
import numpy as np
import torch
from decoding import generate
from PIL import Image
from table import RESULTS, show, write_csv
from torch.nn.functional import normalize

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.data.shapes.wording import write_phrase
from modeling_glccl.data.shapes.world import FPS as SHAPES_FPS
from modeling_glccl.data.shapes.world import Mention
from modeling_glccl.search import VideoIndex
from modeling_glccl.search.ranking import encode_queries
from modeling_glccl.search.shots import FrameChanges, find_cuts
from modeling_glccl.video_decoding_glccl import decode_video

_JOINED = 8  # short videos in a long one


def measure_shapes(checkpoint: str, folder: Path, data_dir: Path) -> Iterator[dict]:
    """What searching the index finds, beside FAISS on mean-pooled frames of the same model."""
    index, rows = _index_shapes(checkpoint, folder, data_dir)
    model, processor = index.model, index.processor
    found = index.search_batch(rows["caption"], k=len(rows), moments=True)
    ranks = [
        [result.video_id for result in results].index(row["video_id"])
        for row, results in zip(rows, found, strict=True)
    ]
    yield {"search": "VideoIndex (GLCCL, exact)", **_recalls(np.array(ranks)), **_moment_accuracy(rows, found)}

    stored = {row["video_id"]: row["pooled"] for row in index._store.videos(["video_id", "pooled"])}
    flat = faiss.IndexFlatIP(index.info()["width"])
    flat.add(np.array([stored[row["video_id"]] for row in rows], np.float32))
    sentences = torch.cat([text.sentence for text in encode_queries(model, processor, rows["caption"])])
    places = flat.search(normalize(sentences, dim=-1).numpy(), len(rows))[1]
    ranks = (places == np.arange(len(rows))[:, None]).argmax(axis=1)
    yield {"search": "FAISS flat, mean-pooled", **_recalls(ranks)}


def _index_shapes(checkpoint: str, folder: Path, data_dir: Path) -> tuple[VideoIndex, Any]:
    rows = _test_rows(data_dir)
    index = VideoIndex.create(folder / "shapes.index", *load_checkpoint(checkpoint))
    report, seconds = _timed(lambda: index.add({row["video_id"]: row["video"]["path"] for row in rows}))
    print(f"{report.added / seconds:.1f} videos indexed a second")
    return index, rows


def _test_rows(data_dir: Path) -> Any:
    return load_benchmark("shapes", data_dir=data_dir, split="test", num_train=0, num_validation=0)


def _recalls(ranks: np.ndarray) -> dict[str, float]:
    return {f"R@{k}": round(100 * float((ranks < k).mean()), 1) for k in (1, 5, 10)}


def _moment_accuracy(rows, found) -> dict[str, float]:
    overlaps, whole = [], []
    for row, results in zip(rows, found, strict=True):
        events = sorted(row["caption_events"])
        if events[-1] - events[0] >= len(events):
            continue
        result = next(result for result in results if result.video_id == row["video_id"])
        truth = row["events"][events[0]]["start"], row["events"][events[-1]]["end"]
        overlaps.append(_iou((result.moment.start, result.moment.end), truth))
        whole.append(_iou((0.0, result.duration), truth))
    accuracy: dict[str, float] = {"moments": len(overlaps)}
    for name, values in (("", overlaps), ("whole video ", whole)):
        for threshold in (0.5, 0.7):
            accuracy[f"{name}IoU>={threshold}"] = round(100 * float(np.mean(np.array(values) >= threshold)), 1)
        accuracy[f"{name}mean IoU"] = round(float(np.mean(values)), 3)
    return accuracy


def _iou(one: tuple[float, float], other: tuple[float, float]) -> float:
    common = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return common / (max(one[1], other[1]) - min(one[0], other[0]))


def measure_queries(checkpoint: str, queries: int, folder: Path, data_dir: Path) -> Iterator[dict]:
    """A row for each thing to ask for, and whether actions are named."""
    index, rows = _index_shapes(checkpoint, folder, data_dir)
    videos, still = {row["video_id"]: row for row in rows}, folder / "still.png"
    for names in (("colour", "shape"), ("colour", "shape", "action")):
        rng = np.random.default_rng(0)
        found: dict[str, dict[str, list[float]]] = {}

        def shows(row, event, names=names) -> bool:
            return any(all(other[name] == event[name] for name in names) for other in row["events"])

        def note(task, way, relevant, group=None, query=None, found=found, **options) -> None:
            (results,) = index.search_batch([query], k=len(rows), **options)
            hits = np.array(
                [relevant(row) for row in (videos[r.video_id] for r in results) if row["twin_group"] != group]
            )
            if hits.any():
                precision = (hits.cumsum() / (1 + np.arange(len(hits))))[hits].mean()
                found.setdefault(task, {}).setdefault(way, []).append(100 * float(precision))

        for _ in range(queries):
            row = rows[int(rng.integers(len(rows)))]
            a, b = (row["events"][i] for i in rng.permutation(len(row["events"]))[:2])
            mentions = [
                Mention(e["colour"], e["shape"], None, e["action"] if "action" in names else None) for e in (a, b)
            ]
            one, other = (write_phrase(rng, mention, None) for mention in mentions)
            with_both = lambda row, a=a, b=b: shows(row, a) and shows(row, b)  # noqa: E731
            note("A and B", "A alone", with_both, query=one)
            note("A and B", "one sentence", with_both, query=f"{one} and also {other}")
            note("A and B", "and", with_both, query=one, and_=other)
            without = lambda row, a=a, b=b: shows(row, a) and not shows(row, b)  # noqa: E731
            note("A, not B", "A alone", without, query=one)
            note("A, not B", "not", without, query=one, not_=other)
            with_b = lambda row, b=b: shows(row, b)  # noqa: E731
            path, group, span = row["video"]["path"], row["twin_group"], f"@{b['start']}-{b['end']}"
            _save_still(path, b, still)
            note("like B", "a still", with_b, group, image=still)
            note("like B", "a span of a file", with_b, group, video=path + span)
            note("like B", "a span in the index", with_b, group, like=row["video_id"] + span)
            strangers = [row for row in rows if shows(row, b) and not shows(row, a) and row["twin_group"] != group]
            if strangers:
                row = strangers[int(rng.integers(len(strangers)))]
                _save_still(row["video"]["path"], next(e for e in row["events"] if shows({"events": [e]}, b)), still)
                note("A with a still of B", "A alone", with_both, row["twin_group"], query=one)
                note("A with a still of B", "still alone", with_both, row["twin_group"], image=still)
                note("A with a still of B", "both", with_both, row["twin_group"], query=one, image=still)
        for task, ways in found.items():
            for way, values in ways.items():
                mean = round(float(np.mean(values)), 1)
                yield {"wanted": task.ljust(20), "asked": way.ljust(20), "actions": "action" in names, "mAP": mean} | {
                    "queries": len(values)
                }


def _save_still(path: str, event: dict, still: Path) -> None:
    """The frame in the middle of an event."""
    middle = (event["start"] + event["end"]) / 2
    Image.fromarray(decode_video(path, 1, middle, middle + 0.3).frames[0]).save(still)


def measure_clips(checkpoint: str, folder: Path, data_dir: Path) -> Iterator[dict]:
    """A row for each way to cut long videos into clips, and for each size the cost of finding shots."""
    model, processor = load_checkpoint(checkpoint)
    rows = _test_rows(data_dir)
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    places, joined, found, false = {}, {}, 0, 0
    for first in range(0, len(order), _JOINED):
        path = str(folder / f"joined{first}.mp4")
        lengths = _join([rows[i]["video"]["path"] for i in order[first : first + _JOINED]], path)
        starts = [0, *np.cumsum(lengths).tolist()]
        places |= {i: (path, start / SHAPES_FPS) for i, start in zip(order[first:], starts[:-1], strict=False)}
        joined[path] = path
        cuts = find_cuts(decode_video(path, sum(lengths), transform=FrameChanges()).frames).tolist()
        found += len({*cuts} & {*starts[1:-1]})
        false += len({*cuts} - {*starts})
    print(f"{found} of {len(rows) - len(joined)} cuts found, {false} where none is")
    asked = [i for i, row in enumerate(rows) if max(e := row["caption_events"]) - min(e) < len(e)]
    ways: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
        "short videos": ({str(i): rows[i]["video"]["path"] for i in order}, {}),
        "fixed 30/20": (joined, {}),
        "fixed 9/6": (joined, {"clip_length": 9, "clip_stride": 6}),
        "shots": (joined, {"clips": "shots"}),
    }
    for number, (way, (videos, settings)) in enumerate(ways.items()):
        index = VideoIndex.create(folder / f"clips{number}.index", model, processor, **settings)
        cpu_seconds = _timed(lambda index=index, videos=videos: index.add(videos, num_workers=1), time.process_time)[1]
        hits, right = [], []
        results = index.search_batch([rows[i]["caption"] for i in asked], 1, moments=True)
        for i, (best,) in zip(asked, results, strict=True):
            video_id, begin = places[i] if way != "short videos" else (str(i), 0)
            events = [rows[i]["events"][e] for e in rows[i]["caption_events"]]
            truth = begin + min(e["start"] for e in events), begin + max(e["end"] for e in events)
            moment = best.moment
            assert moment is not None
            right.append(best.video_id == video_id)
            hits.append(right[-1] and _iou((moment.start, moment.end), truth) >= 0.5)
        yield {"clips from": way.ljust(20), "clips": index.info()["clips"], "captions": len(asked)} | {
            "video R@1": round(100 * float(np.mean(right)), 1),
            "moment R@1": round(100 * float(np.mean(hits)), 1),
            "cpu_s": round(cpu_seconds, 1),
        }
    for size in ((320, 240), (640, 360)):
        path = generate(folder / "large.mp4", 24, size, 250)
        cpu_seconds = _timed(lambda path=path: decode_video(path, 600, transform=FrameChanges()), time.process_time)[1]
        way = f"a minute, {size[0]}x{size[1]}"
        yield {"clips from": way.ljust(20), "clips": "", "captions": "", "video R@1": "", "moment R@1": ""} | {
            "cpu_s": round(cpu_seconds * 60 / 24, 2)
        }


def _join(paths: list[str], path: str) -> list[int]:
    """Writes videos end to end into one; returns how many frames each has."""
    lengths = []
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=SHAPES_FPS, options={"preset": "veryfast", "crf": "20"})
        stream.height, stream.width = decode_video(paths[0], 1).frames.shape[1:3]
        for part in paths:
            frames = decode_video(part, 1000).frames
            lengths.append(len(frames))
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    return lengths


def _timed(call, clock=time.perf_counter) -> tuple:
    started = clock()
    result = call()
    return result, clock() - started


def main() -> None:
    """Runs one of the parts."""
    parser = argparse.ArgumentParser(description="What searches find in the shapes benchmark.")
    parser.add_argument("--part", choices=("shapes", "queries", "clips"), default="shapes")
    parser.add_argument("--model", required=True, help="checkpoint")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-dir", type=Path, help="of the shapes benchmark (default: rendered anew)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    rows = []
    with torch.inference_mode(), tempfile.TemporaryDirectory() as temporary:
        places = Path(temporary), options.data_dir or Path(temporary)
        parts = {
            "shapes": lambda: measure_shapes(options.model, *places),
            "queries": lambda: measure_queries(options.model, options.queries, *places),
            "clips": lambda: measure_clips(options.model, *places),
        }
        for row in parts[options.part]():
            show(row, header=not rows)
            rows.append(row)
    write_csv(rows, f"search_{options.part}", options.output)


if __name__ == "__main__":
    main()
