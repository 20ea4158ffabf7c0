"""Text-video retrieval: R@1, R@5, R@10, median and mean rank in both directions."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Recall at 1, 5 and 10 (percent), median rank (MdR) and mean rank (MnR) of text-video retrieval, text-to-video (t2v) and
video-to-text (v2t), for one or several captions per video. Every query counts once; a tie takes its worst rank.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: [captions, videos] floats, a row for each caption with its similarity to every video, higher is
        better. Lists, a numpy array or a tensor.
    references: [captions] integers, the column of each caption's video. A video may have several captions, or none:
        then it is a distractor for text-to-video only.

Returns:
    t2v_R@1, t2v_R@5, t2v_R@10, t2v_MdR, t2v_MnR: every caption ranks all videos.
    v2t_R@1, v2t_R@5, v2t_R@10, v2t_MdR, v2t_MnR: every video with captions ranks the videos' caption groups, each of
        which scores as its best caption.

Example:
    >>> import evaluate
    >>> metric = evaluate.load("hub/metrics/text_video_retrieval")
    >>> similarity = [[0.9, 0.1], [0.8, 0.3], [0.2, 0.7]]
    >>> results = metric.compute(predictions=similarity, references=[0, 0, 1])
    >>> results["t2v_R@1"]
    100.0
"""

_CITATION = """
@misc{glccl,
    title = {Text-Video Retrieval With Global-Local Contrastive Consistency Learning},
    eprint = {2605.17959},
    archivePrefix = {arXiv}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class TextVideoRetrieval(evaluate.Metric):
    """The metric, as `evaluate.load` finds it."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2605.17959"],
        )

    def _compute(self, predictions, references):
        similarity, video_index = _checked(predictions, references)
        own = np.take_along_axis(similarity, video_index[:, None], axis=1)
        ranks = {"t2v": (similarity >= own).sum(axis=1)}

        best_caption = np.full((similarity.shape[1], similarity.shape[1]), -np.inf)
        np.maximum.at(best_caption, video_index, similarity)  # [caption groups, videos]
        captioned = np.unique(video_index)
        best_caption = best_caption[captioned][:, captioned]
        ranks["v2t"] = (best_caption >= best_caption.diagonal()).sum(axis=0)

        results = {}
        for direction, values in ranks.items():
            for k in (1, 5, 10):
                results[f"{direction}_R@{k}"] = float((values <= k).mean() * 100)
            results[f"{direction}_MdR"] = float(np.median(values))
            results[f"{direction}_MnR"] = float(values.mean())
        return results


def _checked(predictions, references):
    """float64 [captions, videos] and int64 [captions]."""
    widths = {len(row) for row in predictions}
    if len(widths) != 1 or 0 in widths:
        raise ValueError(f"each row of predictions must have a score for every video; rows have {sorted(widths)}")
    similarity = np.array(predictions, dtype="float64")
    video_index = np.array(references, dtype="int64")
    if video_index.min() < 0 or video_index.max() >= similarity.shape[1]:
        raise ValueError(
            f"references must lie in 0..{similarity.shape[1] - 1}, the columns of predictions; "
            f"got {video_index.min()}..{video_index.max()}"
        )
    if np.isnan(similarity).any():
        row, column = np.argwhere(np.isnan(similarity))[0]
        raise ValueError(f"predictions[{row}, {column}] is NaN, which has no rank")
    return similarity, video_index
