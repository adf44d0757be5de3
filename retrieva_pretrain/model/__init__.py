"""From a recipe to megatron-core's BERT with its masked-LM head."""
