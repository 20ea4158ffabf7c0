"""What single captions retrieve, on rendered videos."""

import numpy as np
import pytest

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.data.shapes import relevant_frames
from modeling_glccl.evaluation import evaluate
from modeling_glccl.evaluation.retrieved_videos import retrieve
from modeling_glccl.video_decoding_glccl import decode_video


@pytest.fixture(scope="module")
def evaluated(shapes_dir, checkpoint):
    options = {"num_train": 0, "num_validation": 0, "num_test": 8, "image_size": 16}
    dataset = load_benchmark("shapes", shapes_dir, **options)
    model, processor = load_checkpoint(checkpoint)
    return model, processor, dataset, evaluate(model, processor, dataset, progress=False)


def test_retrieved_videos_are_the_best_scored_ones(evaluated):
    result = evaluated[-1]
    queries = retrieve(*evaluated, queries=[5, 2], top_k=3)
    assert list(queries) == [result.captions[5], result.captions[2]]
    for query, videos in zip([5, 2], queries.values(), strict=True):
        scores = [video.score for video in videos]
        assert scores == sorted(result.similarity[query], reverse=True)[:3]
        best = [result.video_ids.index(video.video_id) for video in videos]
        assert best == np.argsort(-result.similarity[query])[:3].tolist()
        assert [video.correct for video in videos] == [video == query for video in best]


def test_frames_and_weights_are_those_of_the_model(evaluated):
    model, processor, dataset, result = evaluated
    ((query, videos),) = retrieve(*evaluated, queries=[1], top_k=8).items()
    for video in videos:
        row = dataset[result.video_ids.index(video.video_id)]
        decoded = decode_video(row["video"], max_frames=4)
        # The videos have the size that the model reads, so resizing and normalising back changes at most rounding.
        assert np.abs(video.frames.astype(int) - decoded.frames).max() <= 1
        batch = processor(text=[query], videos=[row["video"]])
        weights = model.frame_weights(
            model.get_text_features(batch["input_ids"], batch["attention_mask"]),
            model.get_video_features(batch["pixel_values_videos"], batch["padding_mask_videos"]),
        )
        np.testing.assert_allclose(video.frame_weights, weights.sentence[0, 0].detach().numpy(), atol=1e-5)
        assert video.frame_weights.sum() == pytest.approx(1)
        if video.correct:
            expected = relevant_frames(decoded.timestamps, row["events"], row["caption_events"])
            assert video.described.tolist() == expected.tolist()
            assert expected.sum() > 0
        else:
            assert video.described is None


def test_datasets_without_events_mark_no_frame(evaluated):
    model, processor, dataset, result = evaluated
    plain = dataset.select_columns(["video", "video_id", "caption"])
    (videos,) = retrieve(model, processor, plain, result, queries=[0], top_k=8).values()
    assert [video.described for video in videos] == [None] * 8
