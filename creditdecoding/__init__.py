"""Diffusion language models decoded in few forward passes. The public API."""

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoders import create as decoder
from creditdecoding.decoders import names as decoders
from creditdecoding.decoders.base import Block, Decision, Decoder, Prediction, State, at_least_one
from creditdecoding.errors import CheckpointError, CreditError, MissingExtraError, ModelError, OptionError
from creditdecoding.lm import LM, Completion, load
from creditdecoding.trace import FinishEvent, StepEvent, Trace

__all__ = [
    "LM",
    "Block",
    "CheckpointError",
    "Completion",
    "CreditError",
    "Decision",
    "Decoder",
    "EngineConfig",
    "FinishEvent",
    "GenerationConfig",
    "MissingExtraError",
    "ModelError",
    "OptionError",
    "Prediction",
    "State",
    "StepEvent",
    "Trace",
    "at_least_one",
    "decoder",
    "decoders",
    "load",
]
