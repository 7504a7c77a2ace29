"""Models: their configuration, the layout of their parameters, and their first weights."""

from nodes.models.config import LayerConfig, ModelConfig
from nodes.models.layers import Layer, Tensor
from nodes.models.model import Model

__all__ = ["Layer", "LayerConfig", "Model", "ModelConfig", "Tensor"]
