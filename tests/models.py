"""Tiny random configurations, models and inputs shared by the tests."""

import numpy as np
import torch

from modeling_glccl import GLCCLConfig, GLCCLModel
from modeling_glccl.features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures

BOS, EOS = 98, 99


def tiny_config(**config) -> GLCCLConfig:
    """A GLCCL of 32 wide, 2-layer encoders for images of 16 pixels, texts of at most 8 words and 100 tokens."""
    text = {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    vision = {
        "image_size": 16,
        "patch_size": 8,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    clip = {"text_config": text, "vision_config": vision, "projection_dim": 32}
    defaults = {"max_words": 8, "max_frames": 4, "temporal_num_hidden_layers": 2, "temporal_num_attention_heads": 2}
    return GLCCLConfig(**{"clip_config": clip, **defaults, **config})


def tiny_model(seed: int = 0, **config) -> GLCCLModel:
    """A model in evaluation mode whose every weight is noisy, so that no transposition or order goes unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = GLCCLModel(tiny_config(**config)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def tiny_text(lengths: list[int], slots: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of texts with these numbers of tokens, BOS and EOS included."""
    slots = slots or max(lengths)
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(1, BOS, (len(lengths), slots), generator=generator)
    positions = torch.arange(slots)
    length = torch.tensor(lengths)[:, None]
    input_ids[:, 0] = BOS
    input_ids[positions == length - 1] = EOS
    input_ids[positions >= length] = 0
    return {"input_ids": input_ids, "attention_mask": (positions < length).long()}


def tiny_video(lengths: list[int], slots: int | None = None, seed: int = 1) -> dict[str, torch.Tensor]:
    """`pixel_values_videos` (padded frames are zero) and `padding_mask_videos` of videos with these frame counts."""
    slots = slots or max(lengths)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(len(lengths), slots, 3, 16, 16, generator=generator)
    mask = torch.arange(slots) < torch.tensor(lengths)[:, None]
    return {"pixel_values_videos": pixels * mask[:, :, None, None, None], "padding_mask_videos": mask.long()}


def tiny_batch(size: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Matching texts and videos of various lengths."""
    words = [2 + (3 * i + seed) % 7 for i in range(size)]
    frames = [1 + (2 * i + seed) % 4 for i in range(size)]
    return {**tiny_text(words, 8, seed), **tiny_video(frames, 4, seed + 1)}


def random_features(
    words: list[int],
    frames: list[int],
    width: int = 32,
    word_slots: int | None = None,
    scale: float = 3.0,
    seed: int = 0,
) -> tuple[GLCCLTextFeatures, GLCCLVideoFeatures]:
    """float64 features of texts with these word counts and videos with these frame counts; padding holds noise."""
    generator = torch.Generator().manual_seed(seed)
    word_slots, frame_slots = word_slots or max(words), max(frames)

    def noise(*shape):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    text = GLCCLTextFeatures(
        sentence=noise(len(words), width),
        words=noise(len(words), word_slots, width),
        word_mask=torch.arange(word_slots) < torch.tensor(words)[:, None],
    )
    frame_mask = torch.arange(frame_slots) < torch.tensor(frames)[:, None]
    return text, GLCCLVideoFeatures(frames=noise(len(frames), frame_slots, width), frame_mask=frame_mask)


def random_ranking(captions_per_video, distractors: int = 0, tied: bool = False, seed: int = 0):
    """Similarities [A, V] and the video of each caption, of videos with these numbers of captions, in mixed order."""
    generator = np.random.default_rng(seed)
    video_index = generator.permutation(np.repeat(np.arange(len(captions_per_video)), captions_per_video))
    similarity = generator.normal(size=(len(video_index), len(captions_per_video) + distractors))
    similarity[np.arange(len(video_index)), video_index] += 1
    return (similarity.round() if tied else similarity), video_index


def full_batch() -> dict[str, torch.Tensor]:
    """Eight pairs of different lengths for `tiny_model`, which 1, 2 or 4 processes share."""
    return tiny_text([3, 8, 5, 4, 6, 3, 7, 8], seed=2) | tiny_video([4, 2, 3, 1, 2, 2, 4, 3], seed=3)
