"""Registers the classes of this package with transformers' Auto classes and pipelines, without importing it first."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class Registration(MetaPathFinder):
    """Registers once transformers has been imported, by whomever, and no module of this package is half imported.

    transformers has no hook for this, and importing it here would make every start of the command line wait for it.
    So the loaders of transformers and of this package's modules say when they are done.
    """

    def __init__(self, package: str):
        self.package = package
        self.loading = 0
        if "transformers" in sys.modules:
            register()
        else:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find; its loader registers where the import ends that began outside."""
        if fullname != "transformers" and not fullname.startswith(f"{self.package}."):
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.loading += 1
            try:
                execute(module)
            finally:
                self.loading -= 1
            if not self.loading and "transformers" in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        spec.loader.exec_module = exec_module
        return spec


def register() -> None:
    """Makes AutoConfig, AutoModel, AutoProcessor, AutoVideoProcessor and pipeline know GLCCL and its peers."""
    from transformers import AutoConfig, AutoModel, AutoProcessor
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from .checkpoints import MODELS, PipelineModel
    from .pipeline_glccl import TextVideoRetrievalPipeline
    from .processing_glccl import GLCCLProcessor
    from .video_processing_glccl import GLCCLVideoProcessor

    for model_type, model in MODELS.items():
        AutoConfig.register(model_type, model.config_class)
        # transformers has a class of the name XCLIPConfig, too.
        AutoModel.register(model.config_class, model, exist_ok=True)
        AutoProcessor.register(model.config_class, GLCCLProcessor)
        AutoVideoProcessor.register(model.config_class, GLCCLVideoProcessor)
    PIPELINE_REGISTRY.register_pipeline(
        "text-video-retrieval", TextVideoRetrievalPipeline, pt_model=PipelineModel, type="multimodal"
    )
