"""What a person looks at after a run: its figures and pictures, read from the run's folder. No torch."""
