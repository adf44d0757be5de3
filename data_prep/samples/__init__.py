"""Sample texts, written for this project, and their building into the file formats of the true corpora."""
