"""Text-video retrieval as a `transformers` pipeline: ranks videos for a text, or texts for a video."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BatchFeature, Pipeline

from .features_glccl import GLCCLFeatures, GLCCLTextFeatures, GLCCLVideoFeatures, find_moment
from .processing_glccl import GLCCLProcessor
from .video_processing_glccl import is_one_video

FEATURE_FILE_SUFFIX = ".safetensors"


@dataclass
class IndexedVideos:
    """V encoded videos, which any number of queries can be ranked against.

    Args:
        features: the model's video features, such as frames [V, Nf, D] and frame_mask [V, Nf].
        ids: V names; by default the path of a file, else the place of the video in its list.
        timestamps: float64 [V, Nf], seconds of every frame; NaN where the slot holds none or its time is not known.
        durations: float64 [V], seconds; NaN where not known.
        prepared: what the scores need of the features, made for the first query.
    """

    features: GLCCLVideoFeatures
    ids: list[str]
    timestamps: Tensor
    durations: Tensor
    prepared: Any = None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} videos, frames {list(self.features.frames.shape)}>"


class TextVideoRetrievalPipeline(Pipeline):
    r"""
    Ranks videos for texts (`videos=`), or texts for videos (`texts=`), with a GLCCL model and its processor.

    ```python
    pipe = pipeline("text-video-retrieval", model="owner/name", trust_remote_code=True)
    pipe("a man cooks", videos=["a.mp4", "b.mkv"], top_k=1, moments=True)
    # [{'index': 1, 'id': 'b.mkv', 'score': 21.4, 'start': 2.5, 'end': 7.5}]

    pipe.save_index("videos.safetensors", many_videos)  # encodes them once ...
    pipe(["a man cooks", "a dog runs"], videos="videos.safetensors")  # ... for every later query

    pipe("a.mp4", texts=["a man cooks", "a dog runs"])  # the other direction
    # [{'index': 0, 'text': 'a man cooks', 'score': 18.2}, {'index': 1, 'text': 'a dog runs', 'score': 3.9}]

    # By the names of sentence-transformers; pooled=True gives vectors for a database of vectors
    pipe.similarity(pipe.encode_query(["a man cooks"]), pipe.encode_document(["a.mp4", "b.mkv"]))  # logits [1, 2]
    ```

    A score is the model's logit: it ranks the candidates of one query and is no probability. `top_k` and `moments` can
    also be set when the pipeline is made.
    """

    model: Any  # a GLCCLModel, or a peer; the module that defines it imports this one
    processor: GLCCLProcessor
    _load_processor = None  # where there is one: a plain CLIP may have none
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, model: Any, processor: Any = None, **kwargs: Any):
        if not hasattr(processor, "video_processor"):  # of a plain CLIP: made for images
            processor = GLCCLProcessor.from_pretrained(model.name_or_path)
        super().__init__(model=model, processor=processor, **kwargs)

    def __call__(
        self,
        inputs: Any,
        *,
        videos: Any = None,
        texts: Sequence[str] | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        progress: bool = False,
        **kwargs: Any,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Ranks `videos` for the texts `inputs`, or `texts` for the videos `inputs`.

        Args:
            inputs: a text or several; with `texts=` one video or several, in any form that `videos` may have.
            videos: candidates: a list of what [`GLCCLVideoProcessor`] reads (paths, bytes, arrays, lists of PIL
                images), a feature file of [`~TextVideoRetrievalPipeline.save_index`], or an [`IndexedVideos`].
            texts: candidates, instead of videos.
            batch_size: texts or videos encoded at a time (default: 8, or that of the pipeline).
            num_workers: threads that decode videos beside each other (default: 0, or that of the pipeline).
            progress: whether to show progress bars.
            top_k: how many results (default: 10; `None`: all).
            moments: whether to add `start` and `end`, the seconds of the video that the text is most about
                ([`find_moment`]); None where the time of its frames is not known.

        Returns:
            For one input its results, best first, each a dict of `index` (place among the candidates), `id` of a
            video or `text`, and `score`; for several inputs a list of such lists.

        Raises:
            ValueError: both or none of `videos` and `texts`, an empty text, a video that cannot be read, a feature
                file that is none or was written by another model.
        """
        if (videos is None) == (texts is None):
            raise ValueError("pass the candidates: either videos=[...] (or a feature file) or texts=[...]")
        *_, given = self._sanitize_parameters(**kwargs)
        ranking = self._postprocess_params | given
        batch_size = batch_size or self._batch_size or 8
        num_workers = self._num_workers or 0 if num_workers is None else num_workers
        encoding = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
        if texts is None:
            single, videos = isinstance(inputs, str), self.index(videos, **encoding)
            results = [
                self.postprocess((scores, features.select([row]), videos), **ranking)
                for features in self._encode_texts([inputs] if single else list(inputs), batch_size, progress)
                for row, scores in enumerate(self.similarity(features, videos))
            ]
        else:
            single, videos = not _is_encoded(inputs) and is_one_video(inputs), self.index(inputs, **encoding)
            texts = list(texts)
            queries = self.encode_query(texts, batch_size=batch_size, show_progress_bar=progress)
            results = [
                self.postprocess((scores, texts, self.select(videos, [column])), **ranking)
                for column, scores in enumerate(self.similarity(queries, videos).T)
            ]
        return results[0] if single else results

    def index(
        self,
        videos: Any,
        ids: Sequence[str] | None = None,
        *,
        batch_size: int = 8,
        num_workers: int = 0,
        progress: bool = False,
        end: float | None = None,
    ) -> IndexedVideos:
        """Encodes videos, or reads a feature file; pass the result as `videos=` to rank against it many times.

        Args:
            videos, batch_size, num_workers, progress: as of [`~TextVideoRetrievalPipeline.__call__`].
            ids: names of the videos for the results.
            end: seconds; what comes after is not read (files only). The duration of a longer video is what its file
                declares, or the end of what was read.
        """
        if _is_encoded(videos):
            return videos if isinstance(videos, IndexedVideos) else self._read_index(Path(videos))
        videos = [videos] if is_one_video(videos) else list(videos)
        ids = [_video_id(i, video) for i, video in enumerate(videos)] if ids is None else [str(i) for i in ids]
        if len(ids) != len(videos):
            raise ValueError(f"{len(ids)} ids for {len(videos)} videos")
        if not videos:
            raise ValueError("videos is an empty list; pass at least one video")
        batches, metadata = [], []
        starts = tqdm(range(0, len(videos), batch_size), "videos", unit="batch", disable=not progress, leave=False)
        for start in starts:
            batch = videos[start : start + batch_size]
            try:
                inputs = self.preprocess({"videos": batch}, num_workers=num_workers, end=end)
            except ValueError as error:
                raise ValueError(f"in the batch that starts with video {start} ({ids[start]}), {error}") from error
            metadata += inputs.pop("video_metadata")
            batches.append(self.forward(inputs))
        features = batches[0].concatenate(batches)
        timestamps = torch.full((len(videos), features.num_slots), torch.nan, dtype=torch.float64)
        durations = torch.full((len(videos),), torch.nan, dtype=torch.float64)
        for row, video in enumerate(metadata):
            if video["timestamps"] is not None:
                timestamps[row, : len(video["timestamps"])] = torch.from_numpy(video["timestamps"])
            if video["duration"] is not None:
                durations[row] = video["duration"]
        return IndexedVideos(features, ids, timestamps, durations)

    def save_index(
        self, path: str | os.PathLike, videos: Any, ids: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        """Writes a feature file: the features, `timestamps` and `durations`, and the ids in its header.

        Args:
            path: the file, `*.safetensors`; replaced as a whole.
            videos, ids, **kwargs: as of [`~TextVideoRetrievalPipeline.index`].

        Raises:
            OSError: the file cannot be written, for example because the disk is full; an older one stays.
        """
        if Path(path).suffix != FEATURE_FILE_SUFFIX:
            raise ValueError(f"{path}: a feature file is recognised by its name, so it must end in .safetensors")
        index = self.index(videos, ids, **kwargs)
        times = {"timestamps": index.timestamps, "durations": index.durations}
        index.features.save(path, {"ids": json.dumps(index.ids)}, **times)

    def _read_index(self, path: Path) -> IndexedVideos:
        features, more, metadata = self.model.video_features_class.load(path)
        try:
            ids, timestamps, durations = json.loads(metadata["ids"]), more["timestamps"], more["durations"]
        except (KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a feature file ({error}); save_index writes one") from error
        width, shape = self.model.config.width, features.frame_mask.shape
        if features.frames.shape[-1] != width:
            raise ValueError(
                f"{path} has frames {list(features.frames.shape)}, where this model has width {width}: it was "
                "written by another model; write it again with this one"
            )
        sizes = isinstance(ids, list) and (len(ids), timestamps.shape, durations.shape)
        if sizes != (shape[0], shape, shape[:1]):
            raise ValueError(f"{path} is damaged: it has no id, times or duration of some video; write it again")
        return IndexedVideos(features.to(self.device), ids, timestamps, durations)

    def encode_query(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        device: str | torch.device | None = None,
        pooled: bool = False,
    ) -> Any:
        """Encodes texts for [`~TextVideoRetrievalPipeline.similarity`], by the names of sentence-transformers.

        Args:
            texts: a text or several, encoded `batch_size` at a time.
            device: where the model goes, and stays; by default it stays where it is.
            pooled: one unit vector a text, for databases of vectors, instead of features of all words.

        Returns:
            [`GLCCLTextFeatures`] of A texts; with `pooled` float32 [A, D], and [D] for a single text.

        Raises:
            ValueError: no text, or one without a word.
        """
        self._move(device)
        single, texts = isinstance(texts, str), [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ValueError("texts is an empty list; pass at least one text")
        batches = [*self._encode_texts(texts, batch_size, show_progress_bar)]
        return self._pooled(batches[0].concatenate(batches), pooled, single)

    def encode_document(
        self,
        videos: Any,
        *,
        batch_size: int = 8,
        num_workers: int = 0,
        show_progress_bar: bool = False,
        device: str | torch.device | None = None,
        pooled: bool = False,
    ) -> Any:
        """Encodes videos, as [`~TextVideoRetrievalPipeline.encode_query`] does texts.

        `videos` and `num_workers` are as of [`~TextVideoRetrievalPipeline.__call__`], the others as of texts.

        Returns:
            [`GLCCLVideoFeatures`] of V videos; with `pooled` float32 [V, D], and [D] for a single video.

        Raises:
            ValueError: a video that cannot be read, named.
        """
        self._move(device)
        index = self.index(videos, batch_size=batch_size, num_workers=num_workers, progress=show_progress_bar)
        return self._pooled(index.features, pooled, not _is_encoded(videos) and is_one_video(videos))

    def similarity(
        self, queries: GLCCLTextFeatures | Tensor, documents: GLCCLVideoFeatures | IndexedVideos | Tensor
    ) -> Tensor:
        """Float32 [A, V] on the CPU: logits of texts and videos, or dot products where both are pooled vectors."""
        with self.device_placement(), self.get_inference_context()():
            if isinstance(documents, IndexedVideos):
                if documents.prepared is None:
                    documents.prepared = self.model.prepare_videos(documents.features)
                documents = documents.prepared
            return self.model.similarity(queries, documents).cpu()

    def similarity_pairwise(
        self, queries: GLCCLTextFeatures | Tensor, documents: GLCCLVideoFeatures | IndexedVideos | Tensor
    ) -> Tensor:
        """Float32 [N] on the CPU: of every text with the video at the same place."""
        with self.device_placement(), self.get_inference_context()():
            documents = documents.features if isinstance(documents, IndexedVideos) else documents
            return self.model.similarity_pairwise(queries, documents).cpu()

    def _move(self, device: str | torch.device | None) -> None:
        self.model.eval()
        if device is not None:
            self.model.to(torch.device(device))
            self.device = torch.device(device)

    def _pooled(self, features: Any, pooled: bool, single: bool) -> Any:
        if not pooled:
            return features
        with self.get_inference_context()():
            vectors = self.model.pool(features)
        return vectors[0] if single else vectors

    def moments(self, text: GLCCLTextFeatures, index: IndexedVideos) -> list[dict[str, float | None]]:
        """`start` and `end` of the moment that one text (its features, A = 1) is about in each of V videos."""
        with self.device_placement(), self.get_inference_context()():
            weights = self.model.frame_weights(text, index.features).sentence[0].cpu().double().numpy()
        found = []
        for row, times, duration in zip(weights, index.timestamps.numpy(), index.durations.tolist(), strict=True):
            known = ~np.isnan(times)
            if not known.any():
                found.append({"start": None, "end": None})
                continue
            # Where only a part was read, the video is known up to one step beyond its frames.
            times = times[known]
            distinct = np.unique(times)
            step = (distinct[-1] - distinct[0]) / (len(distinct) - 1) if len(distinct) > 1 else duration
            first, last = max(0.0, distinct[0] - step), np.fmin(duration, distinct[-1] + step)
            moment = find_moment(row[known], times, first, last)
            found.append({"start": moment.start, "end": moment.end})
        return found

    def select(self, index: IndexedVideos, positions: Sequence[int]) -> IndexedVideos:
        """The videos at these positions, in this order."""
        rows = torch.as_tensor(positions)
        return IndexedVideos(
            index.features.select(rows),
            [index.ids[position] for position in rows.tolist()],
            index.timestamps[rows],
            index.durations[rows],
        )

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes model, processor and code: everything that `pipeline(...)` loads from a folder."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown := set(kwargs) - {"top_k", "moments"}:
            raise TypeError(f"the pipeline does not know {', '.join(sorted(unknown))}; it has top_k and moments")
        if kwargs.get("top_k") is not None and kwargs["top_k"] < 1:
            raise ValueError(f"top_k={kwargs['top_k']} must be 1 or more, or None for all")
        return {}, {}, kwargs

    def preprocess(self, input_: dict[str, Any], num_workers: int = 0, end: float | None = None) -> BatchFeature:
        """`{"text": [...]}` or `{"videos": [...]}` -> inputs of the model."""
        if "text" in input_:
            return self.processor(text=input_["text"])
        return self.processor(videos=input_["videos"], num_workers=num_workers, end=end, return_metadata=True)

    def forward(self, model_inputs: Mapping[str, Any], **forward_params: Any) -> Any:
        """Features, on the model's device and of the model's own classes, which the base class would lose."""
        with self.device_placement(), self.get_inference_context()():
            return self._forward(self.ensure_tensor_on_device(**model_inputs), **forward_params)

    def _forward(self, input_tensors: Any) -> GLCCLFeatures:
        if "input_ids" in input_tensors:
            return self.model.get_text_features(**input_tensors)
        return self.model.get_video_features(**input_tensors)

    def postprocess(
        self,
        model_outputs: tuple[Tensor, GLCCLTextFeatures | list[str], IndexedVideos],
        top_k: int | None = 10,
        moments: bool = False,
    ) -> list[dict[str, Any]]:
        """Scores [N] of one text's features with N videos, or of N texts with one video -> its results, best first."""
        scores, text, index = model_outputs
        values, order = (kept[:top_k].tolist() for kept in scores.sort(descending=True, stable=True))
        if isinstance(text, list):
            names = [{"text": text[position]} for position in order]
            if moments:
                features = self.forward(self.preprocess({"text": [text[position] for position in order]}))
                found = [self.moments(features.select([row]), index)[0] for row in range(len(order))]
        else:
            names = [{"id": index.ids[position]} for position in order]
            if moments:
                found = self.moments(text, self.select(index, order))
        results = zip(order, names, values, found if moments else [{}] * len(order), strict=True)
        return [{"index": place} | name | {"score": value} | moment for place, name, value, moment in results]

    def _encode_texts(self, texts: list[str], batch_size: int, progress: bool) -> Iterable[GLCCLTextFeatures]:
        """Features of all texts, batch by batch."""
        if not texts:
            return
        inputs = self.preprocess({"text": texts})
        starts = range(0, len(texts), batch_size)
        for start in tqdm(starts, "texts", unit="batch", disable=not progress, leave=False):
            yield self.forward({name: values[start : start + batch_size] for name, values in inputs.items()})


def _is_encoded(videos: Any) -> bool:
    """Whether these are an [`IndexedVideos`] or the name of a feature file."""
    file = isinstance(videos, str | os.PathLike) and str(videos).endswith(FEATURE_FILE_SUFFIX)
    return file or isinstance(videos, IndexedVideos)


def _video_id(place: int, video: Any) -> str:
    if isinstance(video, dict):
        video = video.get("path")
    return str(video) if isinstance(video, str | os.PathLike) else str(place)
