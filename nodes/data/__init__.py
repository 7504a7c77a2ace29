"""Data: where it is read from, how it is checked, and in which order it is trained."""

from nodes.data.config import DataConfig
from nodes.data.dataset import Dataset
from nodes.data.order import permutation
from nodes.data.sources import load_dataset

__all__ = ["DataConfig", "Dataset", "load_dataset", "permutation"]
