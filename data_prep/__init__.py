"""Raw corpora to Megatron indexed datasets. Knows documents and tokens, nothing of models."""
