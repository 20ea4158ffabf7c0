r"""Searching large indexes: latency, recall, size and build time, beside FAISS.

    python benchmarks/search.py                  # 1,000, 10,000 and 100,000 videos
    python benchmarks/search.py --videos 1000000 # 30 GB of disk, 8 GB of memory
    python benchmarks/search.py --part filters   # a part of the videos
    python benchmarks/search.py --part stages    # where the time goes
    python benchmarks/search.py --part proxies   # which cheap score proposes candidates best

Features are synthetic, of the size of CLIP ViT-B/32's: 12 frames of 512 numbers. Videos belong to topics of very
unequal size; a video has a subject and a few scenes, a query is about one scene, and its words say different things
(`Library`). Queries are encoded beforehand: latencies are those of the search alone, on one thread (--threads), after
one warm-up query, of each query the least of three rounds; `p50_cpu_ms` is processor time, which other work on the
machine stretches less. Recall is against GLCCL's exact scores of every video.
FAISS searches mean-pooled frames with the sentence, in memory (IndexFlatIP).
`memory_mb` is what a reader keeps between searches, LanceDB's caches aside. Prints tables and writes
benchmarks/results/search[_<part>]_<hardware>.csv. What searches find in videos: benchmarks/search_shapes.py.

`filters` searches only every second, hundredth and ten thousandth video (`where=`); recall is against those alone.
Its last row searches all videos for what is like a scene of one (`like=`); recall is against exhaustive search.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import errors

import faiss
import numpy as np
import torch
from table import RESULTS, show, write_csv
from torch import Tensor
from torch.nn.functional import normalize

from modeling_glccl import GLCCLConfig, GLCCLModel, GLCCLProcessor, GLCCLVideoProcessor
from modeling_glccl.features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from modeling_glccl.search import VideoIndex, candidates, searcher
from modeling_glccl.search.candidates import Snapshot
from modeling_glccl.search.ranking import one_frame_logits, proxy_vectors
from modeling_glccl.search.searcher import Searcher
from modeling_glccl.search.store import ClipFeatures, VideoRecord
from modeling_glccl.training.tokenizer import train_clip_tokenizer

WIDTH, FRAMES, CHUNK = 512, 12, 1000
KEPT = (1, 2, 100, 10_000)  # filters keep one video in so many
ROUNDS = 3


class Library:
    """Synthetic features of `size` videos and of queries about some of them, the same for the same numbers.

    Videos fall on 20 topics and as many more as there are hundreds of them, with popularity 1 / rank. A feature is the
    sum of what is common to its modality, its topic, its subject, its scene (3 per video) and noise, in a space whose
    spectrum decays as that of CLIP's embeddings does. Norms are about 10.
    """

    def __init__(self, size: int, queries: int):
        self.size = size
        generator = self._generator(0)
        self._spectrum = (1 + torch.arange(WIDTH)).float().pow(-0.5)
        topics = 20 + size // 100
        self._topics = self._noise(generator, topics)
        self._popularity = 1 / (1 + torch.arange(topics)).float()
        self._video_mean, self._text_mean = self._noise(generator, 2) * 1.5
        self._function_words = self._noise(generator, 30)
        order = torch.randperm(size, generator=generator)
        self.targets = order[:queries].sort().values

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def _noise(self, generator: torch.Generator, *shape: int) -> Tensor:
        return torch.randn(*shape, WIDTH, generator=generator) * self._spectrum

    def _scenes(self, chunk: int) -> tuple[Tensor, torch.Generator]:
        """[CHUNK, 3, D], what the videos of a chunk show."""
        generator = self._generator(1 + chunk)
        topic = torch.multinomial(self._popularity, CHUNK, replacement=True, generator=generator)
        subject = self._topics[topic] + 0.8 * self._noise(generator, CHUNK)
        return subject[:, None] + 0.5 * self._noise(generator, CHUNK, 3), generator

    def chunks(self) -> Iterator[Tensor]:
        """[CHUNK, FRAMES, D] frame features."""
        for chunk in range(self.size // CHUNK):
            scenes, generator = self._scenes(chunk)
            frames = scenes.repeat_interleave(FRAMES // 3, dim=1) + 0.2 * self._noise(generator, CHUNK, FRAMES)
            yield 10 * normalize(frames + self._video_mean, dim=-1)

    def queries(self) -> list[GLCCLTextFeatures]:
        """One for each target, of 6 to 14 words."""
        return [self._query(int(target)) for target in self.targets]

    def _query(self, target: int) -> GLCCLTextFeatures:
        scene = self._scenes(target // CHUNK)[0][target % CHUNK, target % 3]
        generator = self._generator(10**6 + target)
        count = 6 + target % 9
        meaning = scene + 0.6 * self._noise(generator, 1)[0]
        words = 0.6 * meaning + 0.6 * self._noise(generator, count)
        said = torch.rand(count, 1, generator=generator) < 0.5
        words = torch.where(said, words, self._function_words[torch.randint(30, (count,), generator=generator)])
        words[-1] = meaning
        words = 8 * normalize(words + self._text_mean, dim=-1)[None]
        return GLCCLTextFeatures(sentence=words[:, -1], words=words, word_mask=torch.ones(1, count, dtype=torch.bool))


class _Best:
    """The best of the columns of a wide [Q, V] matrix, given part by part."""

    def __init__(self, rows: int, count: int):
        self._seen = 0
        self._scores, self.places = torch.full((rows, count), -torch.inf), torch.zeros(rows, count, dtype=torch.int64)

    def add(self, scores: Tensor) -> None:
        places = torch.arange(self._seen, self._seen + scores.shape[1]).expand_as(scores)
        self._seen += scores.shape[1]
        scores, places = torch.cat([self._scores, scores], dim=1), torch.cat([self.places, places], dim=1)
        self._scores, chosen = scores.topk(self.places.shape[1])
        self.places = places.gather(1, chosen)


def build_model() -> tuple[GLCCLModel, GLCCLProcessor]:
    """Encoders that are never used, and learned matrices a little away from the identity, as training leaves them."""
    text = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    text |= {"num_attention_heads": 1, "bos_token_id": 598, "eos_token_id": 599}
    clip = {"text_config": text, "vision_config": vision, "projection_dim": WIDTH}
    torch.manual_seed(1)
    model = GLCCLModel(GLCCLConfig(clip_config=clip, temporal_num_hidden_layers=1)).eval()
    with torch.no_grad():
        model.clip.logit_scale.fill_(np.log(100))
        for weight in model.interaction.parameters():
            weight += 0.02 / len(weight) ** 0.5 * torch.randn_like(weight)
    return model, GLCCLProcessor(train_clip_tokenizer(["a dog"], vocab_size=600), GLCCLVideoProcessor())


def exact_logits(model: GLCCLModel, texts: list[GLCCLTextFeatures], frames: Tensor) -> Tensor:
    """[A, V] logits of `model.similarity`, of features as the index keeps them."""
    text = GLCCLTextFeatures.concatenate(texts)
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    return model.similarity(text, GLCCLVideoFeatures(frames=frames.half().float(), frame_mask=mask))


def _records(first: int, frames: Tensor) -> list[VideoRecord]:
    times = np.arange(FRAMES) * 2.5 + 1.25
    return [
        VideoRecord(
            video_id=str(first + i),
            path=f"/videos/{(first + i) // 1000:04}/video{first + i:07}.mp4",
            size=first + i,
            sha256=f"{first + i:064x}",
            duration=30.0,
            clips=[ClipFeatures(0.0, 30.0, times, values)],
        )
        for i, values in enumerate(frames.half().numpy())
    ]


def build(size: int, queries: int, folder: Path) -> tuple[VideoIndex, list[GLCCLTextFeatures], dict[str, np.ndarray]]:
    """The index of `size` videos, the queries, and what is known of both; one of an earlier run is taken again."""
    model, processor = build_model()
    library = Library(size, queries)
    texts, path, known = library.queries(), folder / f"{size}.index", folder / f"{size}.npz"
    if not known.exists():
        index = VideoIndex.create(path, model, processor)
        flat = faiss.IndexFlatIP(WIDTH)
        best, building = {every: _Best(len(texts), 10) for every in KEPT}, 0.0
        for number, frames in enumerate(library.chunks()):
            records = _records(number * CHUNK, frames)
            started = time.perf_counter()
            index._store.commit(records)
            if number % 64 == 63:  # as in a long run of `glccl index`
                index._store.compact(growing=True)
            building += time.perf_counter() - started
            flat.add(normalize(frames.sum(dim=1), dim=-1).numpy())
            scores = exact_logits(model, texts, frames)
            for every, found in best.items():
                passes = (number * CHUNK + torch.arange(CHUNK)) % every == 0
                found.add(scores.where(passes, -torch.inf))
        started = time.perf_counter()
        index._store.compact()
        building += time.perf_counter() - started
        index._store.open_clips().optimize(cleanup_older_than=timedelta(0))  # as it is ten minutes later
        faiss.write_index(flat, str(folder / f"{size}.faiss"))
        places = {str(every): found.places.numpy() for every, found in best.items()}
        np.savez(known, seconds=building, **places)  # pyright: ignore[reportArgumentType]
    return VideoIndex.open(path, model, processor), texts, dict(np.load(known))


def measure_search(size: int, queries: int, folder: Path) -> dict:
    """One row of the table: an index of `size` videos is searched."""
    index, texts, known = build(size, queries, folder)
    flat = faiss.read_index(str(folder / f"{size}.faiss"))
    row = {
        "videos": size,
        "build_s": round(float(known["seconds"]), 1),
        "bytes_per_video": round(index.info()["bytes"] / size),
        **_search_all(texts, lambda text: index.search_features([text])[0], known["1"]),
        "memory_mb": round(_bytes_in_memory(index) / 2**20),
    }
    found, seconds, _ = _quietest(texts, lambda text: flat.search(text.sentence.numpy(), 10)[1][0])
    hits = [len(set(best) & set(places)) for best, places in zip(known["1"].tolist(), found, strict=True)]
    faiss_row = {
        "faiss_p50_ms": _milliseconds(seconds, 50),
        "faiss_p95_ms": _milliseconds(seconds, 95),
        "faiss_recall@10": round(sum(hits) / (10 * len(texts)), 4),
    }
    return row | faiss_row | {"queries": len(texts), "threads": torch.get_num_threads()}


def measure_filters(size: int, queries: int, folder: Path) -> Iterator[dict]:
    """A row for each share of `size` videos that a filter keeps."""
    index, texts, known = build(size, queries, folder)
    for every in KEPT:
        filters = {"where": f"size % {every} = 0"} if every > 1 else {}
        kept = -(-size // every)
        row = _search_all(
            texts, lambda text, f=filters: index.search_features([text], **f)[0], known[str(every)][:, :kept]
        )
        yield {"videos": size, "kept": kept, **row, "queries": len(texts), "threads": torch.get_num_threads()}
    examples = [f"{video}@0-10" for video in Library(size, queries).targets[:20].tolist()]
    exact = [[int(result.video_id) for result in index.search_like(like=like, exhaustive=True)] for like in examples]
    row = _search_all(examples, lambda like: index.search_like(like=like), np.array(exact))
    yield {"videos": size, "kept": "like=", **row, "queries": len(examples), "threads": torch.get_num_threads()}


def _search_all(queries: Sequence[Any], search: Callable, truth: np.ndarray) -> dict[str, float]:
    """Latencies and recall of some searches of which the best ten are known."""
    found, seconds, cpu_seconds = _quietest(queries, search)
    hits = [
        len(set(best) & {int(r.video_id) for r in results})
        for best, results in zip(truth.tolist(), found, strict=True)
    ]
    return {
        "p50_ms": _milliseconds(seconds, 50),
        "p95_ms": _milliseconds(seconds, 95),
        "p50_cpu_ms": _milliseconds(cpu_seconds, 50),
        "recall@10": round(sum(hits) / truth.size, 4),
    }


def _quietest(queries: Sequence[Any], search: Callable) -> tuple[list, np.ndarray, np.ndarray]:
    """What each search finds, its seconds and its processor seconds, of `ROUNDS` rounds after a warm-up the least."""
    search(queries[0])
    found, rounds = [], []
    for _ in range(ROUNDS):
        found, seconds, cpu_seconds = [], [], []
        for query in queries:
            started, cpu_started = time.perf_counter(), time.process_time()
            found.append(search(query))
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(time.process_time() - cpu_started)
        rounds.append([seconds, cpu_seconds])
    return found, *np.min(rounds, axis=0)


def _milliseconds(seconds, percentile: float) -> float:
    return round(1000 * float(np.percentile(seconds, percentile)), 1)


def _bytes_in_memory(index: VideoIndex) -> int:
    snapshot = index._load().snapshot()
    return sum(part.nbytes for part in (snapshot.pooled, snapshot.scales, snapshot.held))


def measure_stages(size: int, queries: int, folder: Path) -> Iterator[dict]:
    """A row for each stage of a search, as if all others had taken no time."""
    index, texts, _ = build(size, queries, folder)
    spent: dict[str, np.ndarray] = {}

    def note(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def noted(*arguments, **options):
            clocks = time.perf_counter(), time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                spent[name] = np.array([time.perf_counter(), time.process_time()]) - clocks

        setattr(owner, name, noted)

    note(torch.ops.aten, "_weight_int8pack_mm")
    for owner in (Searcher, Snapshot, searcher, candidates):
        for name in ("snapshot", "_filtered", "candidates", "_score", "_results", "exact_logits", "one_frame_logits"):
            if callable(getattr(owner, name, None)):
                note(owner, name)
    note(Searcher, "search")
    filtered: tuple[dict[str, Any], ...] = ({}, {"where": "size % 100 = 0"})
    for where in filtered:
        index.search_features(texts[:1], **where)
        parts: dict[str, list[np.ndarray]] = {}
        for text in texts:
            rounds = []
            for _ in range(ROUNDS):
                index.search_features([text], **where)
                part = {
                    "is it the newest version": spent["snapshot"],
                    "filter": spent["_filtered"],
                    "scan of pooled vectors": spent["_weight_int8pack_mm"],
                    "one-frame logits of the first 1,000": spent["one_frame_logits"],
                    "choice by both": spent["candidates"] - spent["_weight_int8pack_mm"] - spent["one_frame_logits"],
                    f"reading frames of the first {candidates.CANDIDATES}": spent["_score"] - spent["exact_logits"],
                    "exact logits of these": spent["exact_logits"],
                    "reading the results": spent["_results"],
                    "all": spent["search"],
                }
                part["rest"] = 2 * part["all"] - np.sum(list(part.values()), axis=0)
                rounds.append(part)
            for name in rounds[0]:
                parts.setdefault(name, []).append(np.min([part[name] for part in rounds], axis=0))
        for name, seconds in parts.items():
            wall, cpu = np.median(seconds, axis=0)
            yield {"videos": size, "where": where.get("where", ""), "stage": name.ljust(36)} | {
                "p50_ms": round(1000 * wall, 2),
                "p50_cpu_ms": round(1000 * cpu, 2),
            }


def measure_proxies(size: int, queries: int) -> Iterator[dict]:
    """How many of the 10 best videos are among the candidates of every proxy."""
    model, _ = build_model()
    library = Library(size, queries)
    texts = library.queries()
    sentences = normalize(torch.cat([text.sentence for text in texts]), dim=-1)
    combined = torch.cat([proxy_vectors(model, text) for text in texts])
    scores: dict[str, list[Tensor]] = {}
    for frames in library.chunks():
        pooled = normalize(frames.sum(dim=1), dim=-1)
        units = normalize(frames, dim=-1)
        thirds = normalize(frames.unflatten(1, (3, -1)).sum(dim=2), dim=-1)
        for name, values in {
            "exact": exact_logits(model, texts, frames),
            "sentence . mean frame": sentences @ pooled.T,
            "max over frames of sentence . frame": torch.einsum("ad,vkd->avk", sentences, units).amax(dim=2),
            "combined query . mean frame": combined @ pooled.T,
            "max over frames of combined query . frame": torch.einsum("ad,vkd->avk", combined, units).amax(dim=2),
            "max over three means of combined query . mean": torch.einsum("ad,vkd->avk", combined, thirds).amax(dim=2),
            "GLCCL of the mean frame": torch.stack([one_frame_logits(model, text, pooled) for text in texts]),
            "GLCCL of the means of three parts": exact_logits(model, texts, thirds),
        }.items():
            scores.setdefault(name, []).append(values)
    best = torch.cat(scores.pop("exact"), dim=1).topk(10).indices
    for name, parts in scores.items():
        ranked = torch.cat(parts, dim=1).topk(min(1000, size)).indices
        place = (ranked[:, :, None] == best[:, None]).float()
        recall = {
            f"@{count}": round(place[:, :count].sum().item() / best.numel(), 4)
            for count in (20, 50, 100, 200, 500, 1000)
        }
        yield {"videos": size, "proxy": name.ljust(46), **recall}


def main() -> None:
    """Runs one of the parts."""
    parser = argparse.ArgumentParser(description="Searching large indexes, beside FAISS.")
    parser.add_argument("--part", choices=("search", "filters", "stages", "proxies"), default="search")
    parser.add_argument("--videos", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where indexes are built, and found again (default: temporary)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    measure = {
        "search": lambda *of: [measure_search(*of)],
        "filters": measure_filters,
        "stages": measure_stages,
        "proxies": lambda size, queries, _: measure_proxies(size, queries),
    }[options.part]
    rows = []
    with torch.inference_mode(), tempfile.TemporaryDirectory() as temporary:
        for size in options.videos:
            for row in measure(size, options.queries, options.folder or Path(temporary)):
                show(row, header=not rows)
                rows.append(row)
    write_csv(rows, "search" if options.part == "search" else f"search_{options.part}", options.output)


if __name__ == "__main__":
    main()
