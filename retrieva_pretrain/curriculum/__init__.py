"""Pure functions of (recipe, corpora, step): stage, learning rate, samples, place in every corpus. No torch."""
