"""Sample texts of this project, and raw corpora in the five true file formats made of them."""
