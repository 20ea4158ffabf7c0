"""The evaluator against scoring by hand, on one process and on two."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from launched import launch
from models import BOS, EOS, tiny_model

from modeling_glccl.evaluation import QueryBank, evaluate, retrieval_metrics

BANK = ["7 9", "11", "7 9 30"]


class Processor:
    """Stands for GLCCLProcessor: a video is its seed and number of frames ("7 3"), a text its token ids ("5 9")."""

    def __init__(self):
        self.videos, self.texts = [], []

    def __call__(self, text=None, videos=None, return_tensors="pt"):
        if text is not None:
            self.texts += text
            rows = [[BOS, *(int(token) for token in words.split()), EOS] for words in text]
            slots = max(map(len, rows))
            ids = torch.tensor([row + [0] * (slots - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (slots - len(row)) for row in rows])
            return {"input_ids": ids, "attention_mask": mask}
        self.videos += videos
        seeds, counts = zip(*(map(int, video.split()) for video in videos), strict=True)
        pixels = torch.zeros(len(videos), max(counts), 3, 16, 16)
        for row, (seed, count) in enumerate(zip(seeds, counts, strict=True)):
            pixels[row, :count] = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
        return {"pixel_values_videos": pixels, "padding_mask_videos": mask.long()}


def several_captions() -> Dataset:
    """11 rows: 5 videos of 1 to 4 frames, of which v2 has no caption, in mixed order."""
    order = [3, 0, 4, 1, 0, 2, 3, 1, 1, 4, 0]
    return Dataset.from_dict(
        {
            "video_id": [f"v{video}" for video in order],
            "video": [f"{video} {1 + video % 4}" for video in order],
            "caption": [None if video == 2 else f"{10 * video + row} {row + 1}" for row, video in enumerate(order)],
        }
    )


def by_hand(model, dataset) -> tuple[np.ndarray, list[int]]:
    """One pair at a time through the forward."""
    videos = list(dict.fromkeys(zip(dataset["video_id"], dataset["video"], strict=True)))
    ids = [video_id for video_id, _ in videos]
    rows, video_index = [], []
    for video_id, caption in zip(dataset["video_id"], dataset["caption"], strict=True):
        if caption is not None:
            pairs = [Processor()(text=[caption], return_tensors="pt") for _ in videos]
            pixels = [Processor()(videos=[video], return_tensors="pt") for _, video in videos]
            with torch.inference_mode():
                rows.append([float(model(**t, **v).logits_per_text) for t, v in zip(pairs, pixels, strict=True)])
            video_index.append(ids.index(video_id))
    return np.array(rows), video_index


def test_equals_scoring_by_hand():
    model, dataset, processor = tiny_model(), several_captions(), Processor()
    result = evaluate(model, processor, dataset, batch_size=2, progress=False)
    similarity, video_index = by_hand(model, dataset)
    np.testing.assert_allclose(result.similarity, similarity, rtol=0, atol=1e-4)
    assert result.video_index.tolist() == video_index
    assert result.metrics == retrieval_metrics(similarity, video_index)
    assert result.video_ids == ["v3", "v0", "v4", "v1", "v2"]
    assert [dataset[int(row)]["video_id"] for row in result.video_rows] == result.video_ids
    assert result.captions == [caption for caption in dataset["caption"] if caption is not None]
    assert processor.texts == result.captions  # each is encoded once
    assert sorted(processor.videos) == sorted(set(dataset["video"]))
    assert [len(result.ranks["t2v"]), len(result.ranks["v2t"])] == [10, 4]


def test_in_a_file_progress_ends_in_what_was_done(capsys):
    """Where a bar cannot be taken away, blanks would take its place."""
    evaluate(tiny_model(), Processor(), several_captions(), batch_size=2)
    printed = capsys.readouterr().err
    assert re.findall(r"(\w+): 100%", printed) == ["videos", "texts"]
    assert not re.search(r"\r +\r", printed)


def test_lists_of_captions_equal_one_row_per_caption():
    dataset, model, grouped = several_captions(), tiny_model(), {}
    for row in dataset:
        caption = row.pop("caption")
        entry = grouped.setdefault(row["video_id"], row | {"captions": []})
        entry["captions"] += [caption] if caption else []
    lists = evaluate(model, Processor(), Dataset.from_list(list(grouped.values())), progress=False)
    rows = evaluate(model, Processor(), dataset, progress=False)
    assert lists.video_ids == rows.video_ids
    assert sorted(lists.captions) == sorted(rows.captions)
    assert lists.metrics["v2t"] == rows.metrics["v2t"]


def test_batch_size_and_workers_do_not_matter():
    model, dataset = tiny_model(), several_captions()
    one = evaluate(model, Processor(), dataset, batch_size=1, progress=False)
    other = evaluate(model, Processor(), dataset, batch_size=16, num_workers=1, progress=False)
    np.testing.assert_allclose(one.similarity, other.similarity, rtol=0, atol=1e-4)


def test_videos_may_come_from_a_transform():
    """As frames that are kept in memory or in a cache do."""
    model, dataset = tiny_model(), several_captions()
    videos = dict(zip(dataset["video_id"], dataset["video"], strict=True))

    def put_videos(batch):
        return batch | {"video": [videos[video_id] for video_id in batch["video_id"]]} if len(batch) > 1 else batch

    lazy = dataset.remove_columns("video").with_transform(put_videos)
    expected = evaluate(model, Processor(), dataset, progress=False)
    np.testing.assert_array_equal(evaluate(model, Processor(), lazy, progress=False).similarity, expected.similarity)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_keeps_its_mode_and_is_evaluated_without_gradients(training):
    model = tiny_model().train(training)
    evaluate(model, Processor(), several_captions(), progress=False)
    assert model.training is training
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda dataset: dataset.remove_columns("caption"), "no column 'caption'"),
        (lambda dataset: dataset.remove_columns("video_id"), "no column 'video_id'"),
        (lambda dataset: dataset.select([5]), "1 videos and no caption"),
        (
            lambda dataset: dataset.remove_columns("caption").add_column("caption", [[["7"]]] * len(dataset)),
            r"row 0 \(video v3\): the caption must be a string; got \[\['7'\]\]",
        ),
    ],
)
def test_unusable_datasets_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_model(), Processor(), change(several_captions()), progress=False)


def test_a_query_bank_changes_nothing_but_itself():
    model, dataset, captions = tiny_model(), several_captions(), ["7 9", "11", "7 9 30", "50 2"]
    plain = evaluate(model, Processor(), dataset, progress=False)
    result = evaluate(model, Processor(), dataset, batch_size=1, query_bank=captions, beta=3, progress=False)
    assert plain.query_bank is None
    np.testing.assert_allclose(result.similarity, plain.similarity, rtol=0, atol=1e-4)
    assert result.metrics == plain.metrics

    asked = dataset.select(range(4)).remove_columns("caption").add_column("caption", captions)
    asked = concatenate_datasets([asked, dataset.select(range(4, 11)).map(lambda row: row | {"caption": None})])
    scores, _ = by_hand(model, asked)
    expected = QueryBank.from_similarity(scores, 3 / model.clip.logit_scale.exp().item())
    assert result.query_bank.beta == expected.beta
    assert result.query_bank.size == 4
    np.testing.assert_allclose(result.query_bank.log_sum, expected.log_sum, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(result.query_bank.activated, expected.activated)


def test_two_processes_equal_one(tmp_path):
    """11 rows are 5 videos and 10 texts, in slices of different sizes; of 1 row the second process gets nothing."""
    launch(evaluate_on_two_processes, 2, tmp_path)
    for rows in (11, 1):
        first, second = (torch.load(tmp_path / f"{rows}_{rank}.pt", weights_only=False) for rank in (0, 1))
        assert first["world_size"] == second["world_size"] == 2
        alone = evaluate(
            tiny_model(), Processor(), several_captions().select(range(rows)), query_bank=BANK[:rows], progress=False
        )
        np.testing.assert_allclose(first["similarity"], alone.similarity, rtol=0, atol=1e-4)
        assert first["metrics"] == second["metrics"] == alone.metrics
        assert second["similarity"] is second["query_bank"] is None
        assert first["query_bank"].size == min(rows, 3)
        np.testing.assert_allclose(first["query_bank"].log_sum, alone.query_bank.log_sum, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(first["query_bank"].activated, alone.query_bank.activated)
        # Each process decoded its own share.
        assert sorted(first["videos"] + second["videos"]) == sorted(set(several_captions()[:rows]["video"]))
        assert len(first["videos"]) - len(second["videos"]) in (0, 1)


def evaluate_on_two_processes(folder: Path) -> None:
    accelerator = Accelerator()
    model = accelerator.prepare(tiny_model())
    for rows in (11, 1):
        processor, dataset = Processor(), several_captions().select(range(rows))
        options = {"accelerator": accelerator, "batch_size": 2, "query_bank": BANK[:rows], "progress": False}
        result = evaluate(model, processor, dataset, **options)
        found = {name: getattr(result, name) for name in ("similarity", "metrics", "query_bank")}
        found |= {"world_size": torch.distributed.get_world_size(), "videos": processor.videos}
        torch.save(found, folder / f"{rows}_{accelerator.process_index}.pt")
    # A DDP wrapper that outlives the process group destroys it under the GIL, which can hang on gloo's threads.
    model = accelerator.free_memory(model)
    accelerator.end_training()
