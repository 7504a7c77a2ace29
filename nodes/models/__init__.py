"""Models: their configuration, the layout of their parameters, and their first weights."""

from nodes.models.config import LayerConfig, ModelConfig
from nodes.models.model import Layer, Model, Tensor

__all__ = ["Layer", "LayerConfig", "Model", "ModelConfig", "Tensor"]
