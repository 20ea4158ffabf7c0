"""transformers' suite of processors, on GLCCL's."""

import unittest
from unittest import mock

import pytest
from suites import suite

from modeling_glccl import GLCCLProcessor, GLCCLVideoProcessor
from modeling_glccl.training.tokenizer import train_clip_tokenizer

common = suite("test_processing_common")
# A setting of video processors that GLCCL's has, where the suite has rescaling; the check of it is below.
common.MODALITY_TEST_SPECS["videos"]["init_time_kwargs"] = {"max_frames": 2}
common.MODALITY_TEST_SPECS["videos"]["call_time_kwargs"] = {"return_tensors": "pt"}

pytestmark = pytest.mark.slow


class GLCCLProcessorTest(common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = GLCCLProcessor
    videos_text_kwargs_max_length = videos_unstructured_max_length = 30  # not above max_words

    @classmethod
    def setUpClass(cls):
        # As of a class of transformers, whose code is not saved beside the files and named in them.
        cls.enterClassContext(mock.patch.object(GLCCLProcessor, "_auto_class", None))
        super().setUpClass()

    @classmethod
    def _setup_tokenizer(cls):
        return train_clip_tokenizer(["lower newer", "upper older longer string"] * 4, vocab_size=600)

    @classmethod
    def _setup_video_processor(cls):
        return GLCCLVideoProcessor(size=20, crop_size=18)

    def _check_modality_outputs(self, inputs, modality):
        assert inputs["pixel_values_videos"].shape[1] == 2

    @unittest.skip("arguments stand in the signature of __call__, so that an unknown one is an error")
    def test_call_arguments_not_in_processor_kwargs(self):
        pass

    @unittest.skip("tensors are torch's by default")
    def test_call_arguments_default_none(self):
        pass

    @unittest.skip("GLCCL's video processor always normalises: it has no do_normalize")
    def test_save_load_pretrained_additional_features(self):
        pass

    @unittest.skip("max_words of the processor says how long texts are, not the settings of its tokenizer")
    def test_subprocessor_defaults_preserved_by_kwargs_1_videos(self):
        pass
