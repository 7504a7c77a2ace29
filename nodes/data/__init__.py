"""Data: where it is read from, how it is checked, and in which order it is trained."""

from nodes.data.config import DataConfig
from nodes.data.dataset import Dataset
from nodes.data.order import permutation
from nodes.data.schema import Schema
from nodes.data.sources import load_dataset
from nodes.data.transform import Transform

__all__ = ["DataConfig", "Dataset", "Schema", "Transform", "load_dataset", "permutation"]
