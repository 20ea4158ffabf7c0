"""transformers' suites of models and configurations, on a tiny GLCCL."""

import unittest

import pytest
import torch
from models import tiny_config, tiny_video
from suites import skip, suite

from modeling_glccl import GLCCLConfig, GLCCLModel

ModelTesterMixin = suite("test_modeling_common").ModelTesterMixin
ConfigTester = suite("test_configuration_common").ConfigTester

pytestmark = pytest.mark.slow

EOS = 1  # a vocabulary that is made smaller keeps it


class GLCCLModelTester:
    """What the suites ask for of a model's test: sizes, a configuration and inputs."""

    is_training = True
    batch_size = 7
    seq_length = 8
    num_hidden_layers = 2

    def get_config(self) -> GLCCLConfig:
        config = tiny_config()
        config.eos_token_id = EOS
        return config

    def prepare_config_and_inputs_for_common(self):
        input_ids = torch.randint(2, 80, (self.batch_size, self.seq_length))
        input_ids[:, -1] = EOS
        text = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        return self.get_config(), text | tiny_video([3] * self.batch_size)


class GLCCLModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (GLCCLModel,)
    additional_model_inputs = ("pixel_values_videos",)
    _is_composite = True

    def setUp(self):
        self.model_tester = GLCCLModelTester()
        self.config_tester = ConfigTester(self, config_class=GLCCLConfig, has_text_modality=False)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return inputs | {"return_loss": True} if return_labels else inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    def _video_features_get_expected_num_attentions(self, model_tester=None):
        config = self.model_tester.get_config()
        return config.vision_config.num_hidden_layers + config.temporal_num_hidden_layers

    def _video_features_get_expected_num_hidden_states(self, model_tester=None):
        return self._video_features_get_expected_num_attentions() + 2  # what enters each of the two encoders


# tests/test_modeling.py has one of their gradients.
LIE_ELSEWHERE = "each tower's lie in text_features and video_features; test_get_*_features_* look at them"
OWN_OUTPUTS = ("test_attention_outputs", "test_hidden_states_output", "test_retain_grad_hidden_states_attentions")
skip(GLCCLModelTest, LIE_ELSEWHERE, *OWN_OUTPUTS)
BOOL = "it subtracts all outputs, and masks are bool; tests/test_modeling.py compares tuple and output"
skip(GLCCLModelTest, BOOL, "test_model_outputs_equivalence")
# With a mask of their own making the texts are none: it must end with the EOS, and a model says so where it does not.
MASKED = "its attention_mask leaves out words before the EOS or the EOS itself, which GLCCL refuses"
EAGER = [name for name in dir(GLCCLModelTest) if name.startswith("test_eager_matches_sdpa_inference_")]
skip(GLCCLModelTest, MASKED, *(name for name in EAGER if "no_attn_mask" not in name))
