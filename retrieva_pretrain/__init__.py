"""Pretraining a Japanese encoder on Megatron, from tokenized corpora to a checkpoint."""

__version__ = "0.1.0"
