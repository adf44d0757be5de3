"""JGLUE scores of Hugging Face encoders: read the data, fine-tune over a grid, tell the scores."""
