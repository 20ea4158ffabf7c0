"""A checkpoint for mteb's text-video retrieval tasks, those of MVEB for example, by exact scores (extra `mteb`)."""

from typing import Any

import torch

from .checkpoints import load_checkpoint
from .features_glccl import GLCCLTextFeatures
from .packaged import install_line
from .pipeline_glccl import TextVideoRetrievalPipeline

try:
    from datasets import Dataset, Video
    from mteb.models.model_meta import ModelMeta
except ImportError as error:
    raise ImportError(f"this module needs mteb: {install_line('mteb')} ({error})") from error


def model_meta(checkpoint: str, **known: Any) -> ModelMeta:
    """What mteb is told of a checkpoint, a folder or a Hub repository; values in `known` go over it.

    `mteb.evaluate` takes it in place of a [`GLCCLSearch`], but then asks for torchcodec, which is not needed here.
    """
    name = checkpoint if "/" in checkpoint else f"./{checkpoint}"
    about = {"loader": GLCCLSearch, "name": name, "framework": ["Transformers"], "model_type": ["late-interaction"]}
    about |= {"modalities": ["text", "video"], "similarity_fn_name": "custom", "use_instructions": False}
    return ModelMeta.create_empty({**about, **known})


class GLCCLSearch:
    """mteb's SearchProtocol: the corpus is encoded once, every query is scored exactly against all of it."""

    def __init__(
        self, model_name: str, revision: str | None = None, device: str | None = None, num_workers: int = 0, **unused
    ):
        model, processor = load_checkpoint(model_name)
        self.pipe, self.num_workers = TextVideoRetrievalPipeline(model, processor, device=device), num_workers
        count = model.num_parameters()
        known = {"n_parameters": count, "memory_usage_mb": round(count * 4 / 2**20, 1)}
        known |= {"max_tokens": processor.max_words, "embed_dim": model.config.width}
        self.mteb_model_meta = model_meta(model_name, revision=revision, **known)

    def index(self, corpus: Dataset, *, encode_kwargs: Any, **unused: Any) -> None:
        """Encodes a corpus with the columns `id` and `text` or `video`."""
        self.ids, self.corpus = list(corpus["id"]), self._encode(corpus, encode_kwargs)

    def search(
        self,
        queries: Dataset,
        *,
        top_k: int,
        encode_kwargs: Any,
        top_ranked: dict[str, list[str]] | None = None,
        **unused: Any,
    ) -> dict[str, dict[str, float]]:
        """The `top_k` best of the corpus for every query, of `top_ranked` alone if it is given: id -> {id: logit}."""
        asked: Any = self._encode(queries, encode_kwargs)
        if isinstance(asked, GLCCLTextFeatures) == isinstance(self.corpus, GLCCLTextFeatures):
            raise ValueError("GLCCL scores texts against videos: the queries must be the one and the corpus the other")
        if isinstance(asked, GLCCLTextFeatures):
            scores = self.pipe.similarity(asked, self.corpus)
        else:
            scores = self.pipe.similarity(self.corpus, asked).T
        found = {}
        for query, row in zip(queries["id"], scores, strict=True):
            places = torch.arange(len(self.ids))
            if top_ranked is not None:
                among = set(top_ranked.get(query, ()))
                places = torch.tensor([document in among for document in self.ids]).nonzero().flatten()
            values, best = row[places].topk(min(top_k, len(places)))
            found[query] = {self.ids[places[i]]: value for i, value in zip(best, values.tolist(), strict=True)}
        return found

    def _encode(self, rows: Dataset, encode_kwargs: Any) -> Any:
        """Features of all rows; files of videos come batch by batch, undecoded."""
        options = {"batch_size": 32, "show_progress_bar": False}
        options = {name: encode_kwargs.get(name, value) for name, value in options.items()}
        given = {"text", "video", "image", "audio"} & set(rows.column_names)
        if given == {"text"}:
            return self.pipe.encode_query(list(rows["text"]), **options)
        if given != {"video"}:
            raise ValueError(f"GLCCL reads a text or a video, and these rows have {rows.column_names}")
        if isinstance(rows.features["video"], Video):
            rows = rows.cast_column("video", Video(decode=False))
        batches: Any = rows.iter(options["batch_size"])
        options["num_workers"] = self.num_workers
        parts = [self.pipe.encode_document(batch["video"], **options) for batch in batches]
        return parts[0].concatenate(parts)
