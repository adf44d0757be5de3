"""Recipes: what a run is, in YAML."""
