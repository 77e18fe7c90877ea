"""Datasets: named, versioned descriptions of data; getting it, preparing it, and reading what was prepared."""

from beft.datasets.description import DatasetError, Description
from beft.datasets.prepared import SPLITS, Rows, Split, load_split, load_summary
from beft.datasets.registry import dataset_problems, find_dataset, known_datasets

__all__ = [
    "SPLITS",
    "DatasetError",
    "Description",
    "Rows",
    "Split",
    "dataset_problems",
    "find_dataset",
    "known_datasets",
    "load_split",
    "load_summary",
]
