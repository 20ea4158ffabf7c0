"""Ranks videos by a sentence, without torch: python search.py "a red ball rolls" a.npy b.npy

Needs onnxruntime, numpy, safetensors, and of transformers the tokenizer. A video is a .npy file of uint8 frames
[T, side, side, 3], RGB, equally spaced in time; the side is crop_size in processor_config.json.
"""

import html
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession, disable_telemetry_events  # pyright: ignore[reportAttributeAccessIssue]
from safetensors.numpy import load_file
from transformers import AutoTokenizer

disable_telemetry_events()  # it may report that it is used


class Searcher:
    """The files of a folder that `glccl export onnx` wrote: texts, videos, and their scores."""

    def __init__(self, folder: Path = Path(__file__).parent):
        self.texts = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
        self.videos = self.texts["video_processor"]
        self.scoring = json.loads((folder / "scoring.json").read_text(encoding="utf-8"))
        self.matrices = load_file(folder / "scoring.safetensors")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.towers: dict[str, Any] = {name: InferenceSession(folder / f"{name}.onnx") for name in ("text", "video")}

    def encode_text(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Sentence [D] and words [N, D], float32."""
        siglip, limit, release = self.texts["family"] == "siglip", self.texts["max_words"], self.scoring["release"]
        text = text.lower().strip() if siglip else html.unescape(html.unescape(text)).strip()
        start = [] if siglip else [self.tokenizer.bos_token_id]
        cut = {"truncation": True, "max_length": limit - 1 - len(start), "split_special_tokens": not release}
        tokens = self.tokenizer(text, add_special_tokens=False, **cut)["input_ids"]
        ids = [*start, *tokens, self.tokenizer.eos_token_id]
        if not tokens:
            raise ValueError(f"{text!r} has no word")
        slots = self.texts["text_slots"] or (limit if release else len(ids))
        ids += [self.tokenizer.pad_token_id if siglip else 0] * (slots - len(ids))
        sentence, words, mask = self.towers["text"].run(None, {"input_ids": np.array([ids])})
        return sentence[0], words[0, mask[0]]

    def encode_video(self, frames: np.ndarray) -> np.ndarray:
        """[N, D] float32 of uint8 frames [T, side, side, 3]; N is max_frames at most."""
        side, limit = self.videos["crop_size"], self.videos["max_frames"]
        if frames.dtype != np.uint8 or not len(frames) or frames.shape[1:] != (side, side, 3):
            raise ValueError(f"frames are {frames.dtype} {frames.shape}, and must be uint8 [T, {side}, {side}, 3]")
        count = min(limit, len(frames))
        frames = frames[(2 * np.arange(count) + 1) * len(frames) // (2 * count)]  # of equal spans, the centres
        mean, deviation = (np.array(self.videos[name], np.float32) for name in ("image_mean", "image_std"))
        pixels = (frames / np.float32(255) - mean) / deviation
        padding = limit - count if self.scoring["release"] else 0
        pixels = np.pad(pixels.transpose(0, 3, 1, 2), ((0, padding), (0, 0), (0, 0), (0, 0)))
        inputs = {"pixel_values_videos": pixels[None], "padding_mask_videos": (np.arange(len(pixels)) < count)[None]}
        features, mask = self.towers["video"].run(None, inputs)
        return features[0, mask[0]]

    def score(self, text: tuple[np.ndarray, np.ndarray], frames: np.ndarray) -> np.ndarray:
        """[4]: video-sentence, video-word, sentence-frame, frame-word; their mean ranks the videos of a text."""
        (sentence, words), config, matrices = text, self.scoring, self.matrices
        # GLIM: what a text sees of a video is a mean of its frames, weighted by their products with the text.
        guided = [sentence * config["glim_global"], *(words * config["glim_local"])]
        pooled = unit(softmax(np.stack(guided) @ frames.T / config["glim_temperature"]) @ frames)
        video, frames, sentence, words = pooled[0], pooled[1:], unit(sentence), unit(words)

        def aggregate(values: np.ndarray, name: str) -> np.ndarray:  # AOSM, over the last dimension
            matrix = matrices[name][: len(words), : len(words)]
            return (softmax(values / config["aosm_temperature"]) @ matrix * values).sum(-1)

        fine = words @ matrices["local_mat_weight"] @ frames.T
        frame_word = aggregate(aggregate(fine.T, "word_mat_weight"), "word_frame_mat_weight2")
        frame_word += aggregate(aggregate(fine, "word_frame_mat_weight"), "word_mat_weight2")
        scores = sentence @ matrices["global_mat_weight"] @ video, aggregate(words @ video, "word_logit_weight")
        scores = *scores, aggregate(frames @ sentence, "word_frame_logit_weight"), frame_word / 2
        return np.exp(config["logit_scale"]) * np.array(scores)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Divided by their lengths."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def softmax(values: np.ndarray) -> np.ndarray:
    """Over the last dimension."""
    values = np.exp(values - values.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    searcher = Searcher()
    text, found = searcher.encode_text(sys.argv[1]), []
    for path in sys.argv[2:]:
        try:
            frames = np.lib.format.open_memmap(path, mode="r")  # reads no pickles
            found.append((searcher.score(text, searcher.encode_video(frames)).mean(), path))
        except (ValueError, OSError) as error:
            sys.exit(f"{path}: {error}")
    for score, path in sorted(found, reverse=True):
        print(f"{score:8.3f}  {path}")
