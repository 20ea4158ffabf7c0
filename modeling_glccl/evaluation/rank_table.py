"""One row per query: what was asked, at which rank the right answer came, and what came first."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from .evaluator import EvaluationResult
from .metrics import RankedQueries

SCHEMA = pa.schema(
    {
        "post_processing": pa.string(),
        "direction": pa.string(),
        "query": pa.int64(),
        "row": pa.int64(),
        "caption": pa.string(),
        "video_id": pa.string(),
        "rank": pa.int64(),
        "score": pa.float64(),
        "top1_video_id": pa.string(),
        "top1_score": pa.float64(),
    }
)


def rank_table(result: EvaluationResult, queries: Mapping[str, Mapping[str, RankedQueries]]) -> pa.Table:
    """Ranks and best answers of every query, from "none" or the name of a post-processing -> direction -> queries.

    Returns:
        A row per post-processing, direction and query, with the columns
        - `post_processing`: "none", "qb_norm" or "dual_softmax": how the scores of the row came about.
        - `direction`: "t2v", the query is `caption` and ranks the videos; "v2t", the query is the video `video_id` and
          ranks the videos' captions.
        - `query`: number of the query in its direction; the order of the captions, or of the videos with captions.
        - `row`: where the query stands in the dataset: the caption's row, or the video's first row.
        - `caption`: the query; null in "v2t".
        - `video_id`: the right answer of "t2v", the query of "v2t".
        - `rank`, `score`: of the right answer, 1 = best, the worst rank among ties.
        - `top1_video_id`, `top1_score`: what came first, in "v2t" the video whose caption did. It is `video_id` where
          `rank` is 1, and nowhere else.
    """
    video_ids = np.array(result.video_ids, dtype=object)
    parts = []
    for name, directions in queries.items():
        for direction, ranked in directions.items():
            count, top1 = len(ranked.target), ranked.top1()
            right = ranked.videos[ranked.target]
            captions = result.captions if direction == "t2v" else [None] * count
            rows = result.caption_rows if direction == "t2v" else result.video_rows[right]
            columns = {
                "post_processing": [name] * count,
                "direction": [direction] * count,
                "query": np.arange(count),
                "row": rows,
                "caption": captions,
                "video_id": video_ids[right],
                "rank": ranked.ranks(),
                "score": ranked.target_scores().astype("float64"),
                "top1_video_id": video_ids[ranked.videos[top1]],
                "top1_score": ranked.scores[np.arange(count), top1].astype("float64"),
            }
            parts.append(pa.table(columns, schema=SCHEMA))
    return pa.concat_tables(parts)
