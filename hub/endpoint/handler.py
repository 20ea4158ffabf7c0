"""Custom handler of Inference Endpoints for a GLCCL checkpoint; `glccl publish --add FILE` adds it to the model.

A request is `{"inputs": {...}, "parameters": {...}}`. What `inputs` holds says what is wanted:

    {"query": "a man cooks"}                                  rank the videos of a feature file of this repository
    {"query": "a man cooks", "videos": [VIDEO, ...]}          rank these videos
    {"texts": ["a man cooks", ...]}                           embed texts
    {"videos": [VIDEO, ...]}                                  embed videos

VIDEO is `{"base64": "..."}` or `{"path": "..."}`, below the folder that GLCCL_VIDEO_ROOT names, and may have an `id`.
`query` may be a list. Parameters: `top_k` (10), `moments` (false), `index` (name of the feature file,
"index.safetensors"), `words` (false: one vector for a text; true: also one for each word).

The answer is `{"results": [...]}`, `{"embeddings": [...]}` or `{"error": {"code": ..., "message": ...}}`.

Only transformers and the standard library are imported: this file runs with the checkpoint's folder on sys.path, where
modeling_glccl.py hides the package of that name.
"""

import base64
import logging
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

from transformers import pipeline

LIMITS = {
    "GLCCL_MAX_REQUEST_BYTES": 64_000_000,  # of all videos of a request together
    "GLCCL_MAX_VIDEO_SECONDS": 600.0,
    "GLCCL_MAX_VIDEOS": 16,
    "GLCCL_MAX_TEXTS": 64,
    "GLCCL_MAX_CHARACTERS": 2000,  # of a text
    "GLCCL_MAX_RESULTS": 1000,
    "GLCCL_MAX_REQUESTS": 16,  # at the same time: one is answered, the others wait
    "GLCCL_TIMEOUT_SECONDS": 30.0,
}


class RequestError(Exception):
    """A request that is answered with an error, and a code that programs can read."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class EndpointHandler:
    """What an endpoint makes once, and calls for every request."""

    def __init__(self, path: str = ""):
        self.folder = Path(path).resolve()
        options: dict[str, Any] = {"model": str(self.folder), "trust_remote_code": True}
        self.pipe = pipeline("text-video-retrieval", **options)  # pyright: ignore[reportCallIssue, reportArgumentType]
        self.limits = {name: type(value)(os.environ.get(name, value)) for name, value in LIMITS.items()}
        root = os.environ.get("GLCCL_VIDEO_ROOT")
        self.video_root = Path(root).resolve() if root else None
        self.indexes: dict[str, Any] = {}
        self.places = threading.BoundedSemaphore(self.limits["GLCCL_MAX_REQUESTS"])
        self.turn = threading.Lock()  # one at a time: the model uses all cores

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Answers one request; never raises. Videos are decoded in a process that is ended when the time is up."""
        seconds = self.limits["GLCCL_TIMEOUT_SECONDS"]
        deadline = time.monotonic() + seconds
        if not self.places.acquire(blocking=False):
            limit = self.limits["GLCCL_MAX_REQUESTS"]
            return {"error": {"code": "busy", "message": f"{limit} requests are being answered: try again later"}}
        try:
            if not self.turn.acquire(timeout=seconds):
                raise TimeoutError
            try:
                self.pipe.processor.video_processor.deadline = deadline
                return self._answer(data, deadline)
            finally:
                self.turn.release()
        except TimeoutError:
            code, message = "timeout", f"not done within {seconds:g} seconds: send fewer or shorter videos"
        except RequestError as error:
            code, message = error.code, str(error)
            for folder in filter(None, (self.folder, self.video_root)):
                message = message.replace(f"{folder}/", "")
        except Exception:
            logging.exception("a request failed")
            code, message = "internal", "this is a fault of the server, whose log says more"
        finally:
            self.places.release()
        return {"error": {"code": code, "message": message[:1000]}}

    def _answer(self, data: dict[str, Any], deadline: float) -> dict[str, Any]:
        data = data if isinstance(data, dict) else {}
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        if isinstance(inputs, str):
            inputs = {"query": inputs}
        if not isinstance(inputs, dict) or not isinstance(parameters, dict):
            raise RequestError("bad_request", 'send {"inputs": {...}, "parameters": {...}}, see handler.py')
        for name, values, known in (
            ("inputs", inputs, {"query", "videos", "texts"}),
            ("parameters", parameters, {"top_k", "moments", "index", "words"}),
        ):
            if unknown := set(values) - known:
                raise RequestError("bad_request", f"{name} has {sorted(unknown)}; known are {sorted(known)}")
        try:
            if "query" in inputs:
                return {"results": self._rank(inputs["query"], inputs.get("videos"), parameters, deadline)}
            if "texts" in inputs:
                return {"embeddings": self._embed_texts(inputs["texts"], bool(parameters.get("words")))}
            if "videos" in inputs:
                return {"embeddings": self._embed_videos(inputs["videos"], deadline)}
        except ValueError as error:  # of the pipeline: what cannot be read or has no word
            raise RequestError("bad_input", str(error)) from error
        raise RequestError("bad_request", "inputs needs query, texts or videos")

    def _rank(self, query: Any, videos: Any, parameters: dict[str, Any], deadline: float) -> list[Any]:
        queries = self._texts("query", [query] if isinstance(query, str) else query)
        top_k, limit = parameters.get("top_k", 10), self.limits["GLCCL_MAX_RESULTS"]
        if not isinstance(top_k, int) or not 1 <= top_k <= limit:
            raise RequestError("bad_request", f"top_k={top_k!r} must be a whole number from 1 to {limit}")
        options = {"moments": bool(parameters.get("moments")), "top_k": top_k}
        if videos is None:
            index = self._index(parameters.get("index", "index.safetensors"))
            ranked = self.pipe(queries, videos=index, **options)
        else:
            ranked = [[] for _ in queries]
            for place, (video_id, video) in enumerate(self._videos(videos)):
                index = self._encode(video_id, video, deadline)
                for results, (found,) in zip(ranked, self.pipe(queries, videos=index, **options), strict=True):
                    results.append(found | {"index": place})
            ranked = [sorted(results, key=lambda found: -found["score"])[:top_k] for results in ranked]
        return ranked[0] if isinstance(query, str) else ranked

    def _embed_texts(self, texts: Any, words: bool) -> list[dict[str, Any]]:
        texts = self._texts("texts", texts)
        features = self.pipe.forward(self.pipe.preprocess({"text": texts}))
        embeddings = []
        for row, text in enumerate(texts):
            embedding = {"text": text, "sentence": features.sentence[row].tolist()}
            if words:
                embedding["words"] = features.words[row][features.word_mask[row]].tolist()
            embeddings.append(embedding)
        return embeddings

    def _embed_videos(self, videos: Any, deadline: float) -> list[dict[str, Any]]:
        embeddings = []
        for video_id, video in self._videos(videos):
            index = self._encode(video_id, video, deadline)
            counted = index.features.frame_mask[0]
            times = index.timestamps[0][: int(counted.sum())].tolist()
            embedding = {"id": video_id, "frames": index.features.frames[0][counted].tolist()}
            embedding["timestamps"] = [None if math.isnan(seconds) else seconds for seconds in times]
            embeddings.append(embedding | {"duration": index.durations[0].item()})
        return embeddings

    def _encode(self, video_id: str, video: Any, deadline: float) -> Any:
        """One video, unless the time is up."""
        if time.monotonic() > deadline:
            raise TimeoutError
        limit = self.limits["GLCCL_MAX_VIDEO_SECONDS"]
        try:
            # No more is decoded than tells whether the video is too long.
            index = self.pipe.index([video], ids=[video_id], end=limit + 1)
        except ValueError as error:
            if time.monotonic() > deadline:
                raise TimeoutError from error
            reason = str(error.__cause__ or error).removeprefix("videos[0]: ")
            raise RequestError("bad_input", f"video {video_id}: {reason}") from error
        duration = index.durations[0].item()
        if duration > limit:
            raise RequestError("too_long", f"video {video_id} lasts {duration:.1f} s; at most {limit:g} s are allowed")
        return index

    def _texts(self, name: str, texts: Any) -> list[str]:
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise RequestError("bad_request", f"{name} must be a list of strings, at least one")
        if len(texts) > (limit := self.limits["GLCCL_MAX_TEXTS"]):
            raise RequestError("too_many", f"{name} has {len(texts)} texts; at most {limit} are allowed")
        limit = self.limits["GLCCL_MAX_CHARACTERS"]
        for place, length in enumerate(map(len, texts)):
            if length > limit:
                raise RequestError(
                    "too_large", f"{name}[{place}] has {length} characters; at most {limit} are allowed"
                )
        return texts

    def _videos(self, videos: Any) -> list[tuple[str, Any]]:
        """(id, bytes or path) of every video, none of which is decoded yet."""
        if not isinstance(videos, list) or not videos or not all(isinstance(video, dict) for video in videos):
            raise RequestError("bad_request", 'videos must be a list of {"base64": ...} or {"path": ...}')
        if len(videos) > (limit := self.limits["GLCCL_MAX_VIDEOS"]):
            raise RequestError("too_many", f"{len(videos)} videos; at most {limit} are allowed in a request")
        total, found = 0, []
        for place, video in enumerate(videos):
            name = f"videos[{place}]"
            if not all(isinstance(video.get(key, ""), str) for key in ("base64", "path")):
                raise RequestError("bad_request", f"{name}: base64 and path must be strings")
            if set(video) - {"id"} == {"base64"}:
                content, size = video["base64"], len(video["base64"]) * 3 // 4
            elif set(video) - {"id"} == {"path"}:
                content = self._allowed_path(name, video["path"])
                size = content.stat().st_size
            else:
                raise RequestError("bad_request", f"{name} must have base64 or path, and may have an id")
            total += size
            if total > (limit := self.limits["GLCCL_MAX_REQUEST_BYTES"]):
                raise RequestError("too_large", f"up to {name} the videos have {total} bytes; {limit} are allowed")
            found.append((str(video.get("id", place)), content))
        for place, (video_id, content) in enumerate(found):
            if isinstance(content, str):
                try:
                    found[place] = video_id, base64.b64decode(content, validate=True)
                except ValueError as error:
                    raise RequestError("bad_input", f"the base64 of video {video_id} is damaged: {error}") from error
        return found

    def _allowed_path(self, name: str, path: str) -> Path:
        if self.video_root is None:
            raise RequestError("forbidden", f"{name}: paths are not allowed here; GLCCL_VIDEO_ROOT names no folder")
        try:
            found = (self.video_root / path).resolve()
            exists = found.is_file()
        except (OSError, ValueError) as error:  # a path that no file can have
            raise RequestError("not_found", f"{name}: no file of this path") from error
        if not found.is_relative_to(self.video_root):
            raise RequestError("forbidden", f"{name}: {path} is not below the allowed folder")
        if not exists:
            raise RequestError("not_found", f"{name}: no file {path}")
        return found

    def _index(self, name: Any) -> Any:
        """A feature file of the repository, read once."""
        if not isinstance(name, str):
            raise RequestError("bad_request", f"index={name!r} must be the name of a feature file of this repository")
        if name not in self.indexes:
            # Looked up in the list of files, a name cannot lead out of the folder.
            files = {file.name: file for file in self.folder.glob("*.safetensors")}
            if name not in files:
                raise RequestError("not_found", f"this repository has no feature file {name}: send videos, or add one")
            self.indexes[name] = self.pipe.index(files[name])
        return self.indexes[name]
