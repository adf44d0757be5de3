"""From a run's checkpoint to a directory that Hugging Face's transformers loads, and back."""
