"""A checkpoint under the real mteb: a task of generated clips in both directions, equal to `glccl evaluate`."""

import pytest
from datasets import Dataset, Video
from videos import write_video

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.evaluation import evaluate

mteb = pytest.importorskip("mteb", reason="mteb is not installed")
CAPTIONS = [f"{colour} {shape}" for colour in ("red", "green", "blue") for shape in ("ball", "star", "square", "ring")]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    paths = [str(write_video(folder / f"{i}.mp4", 5 + 7 * i)) for i in range(len(CAPTIONS))]
    return Dataset.from_dict({"video_id": [f"v{i}" for i in range(len(paths))], "video": paths, "caption": CAPTIONS})


def task(category: str, rows: Dataset, embedded: bool = False):
    """A retrieval task of mteb: caption i belongs to video i."""
    videos = Dataset.from_dict({"id": rows["video_id"], "video": rows["video"]})
    if embedded:  # as data sets on the Hub have them
        videos = videos.cast_column("video", Video())
    texts = Dataset.from_dict({"id": [f"t{i}" for i in range(len(rows))], "text": rows["caption"]})
    queries, corpus = (texts, videos) if category == "t2v" else (videos, texts)
    relevant = {query: {document: 1} for query, document in zip(queries["id"], corpus["id"], strict=True)}

    from mteb.abstasks import retrieval, task_metadata

    class Clips(retrieval.AbsTaskRetrieval):
        metadata = task_metadata.TaskMetadata(
            name="Clips",
            description="Generated clips.",
            dataset={"path": "generated/clips", "revision": "1"},
            type="Any2AnyRetrieval",
            eval_langs=["eng-Latn"],
            main_score="recall_at_1",
            category=category,
            modalities=["text", "video"],
        )

        def load_data(self, **unused):
            split = {"queries": queries, "corpus": corpus, "relevant_docs": relevant, "top_ranked": None}
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return Clips()


@pytest.mark.parametrize(("category", "embedded"), [("t2v", True), ("v2t", False)])
def test_results_are_those_of_evaluate(checkpoint, rows, category, embedded):
    from modeling_glccl.mteb import GLCCLSearch

    (result,) = mteb.evaluate(
        GLCCLSearch(str(checkpoint)),
        task(category, rows, embedded),
        cache=None,
        encode_kwargs={"batch_size": 5},
        show_progress_bar=False,
        co2_tracker=False,
    )
    (scores,) = result.scores["test"]
    expected = evaluate(*load_checkpoint(checkpoint), rows, progress=False).metrics[category]
    for k in (1, 5, 10):
        assert scores[f"recall_at_{k}"] == pytest.approx(expected[f"R@{k}"] / 100, abs=1e-4)
    assert 0 < scores["recall_at_10"] < 1


def test_scores_are_exact_and_candidates_kept(checkpoint, rows):
    from modeling_glccl.mteb import model_meta

    meta = model_meta(str(checkpoint))
    model = meta.loader(meta.name, revision=meta.revision)  # as mteb does
    assert isinstance(model, mteb.models.SearchProtocol)
    assert model.mteb_model_meta.embed_dim == 32
    clips = task("t2v", rows)
    clips.load_data()
    split = clips.dataset["default"]["test"]
    model.index(split["corpus"], encode_kwargs={})
    found = model.search(split["queries"], top_k=3, encode_kwargs={}, top_ranked={"t4": ["v9", "v2", "unknown"]})
    similarity = evaluate(model.pipe.model, model.pipe.processor, rows, progress=False).similarity
    assert found["t4"] == pytest.approx({"v9": similarity[4, 9], "v2": similarity[4, 2]}, abs=1e-3)
    assert found["t5"] == {}
    with pytest.raises(ValueError, match="texts against videos"):
        model.search(split["corpus"], top_k=3, encode_kwargs={})
    with pytest.raises(ValueError, match="a text or a video"):
        model.index(split["corpus"].add_column("text", CAPTIONS), encode_kwargs={})
