"""Indexed datasets -> masked samples. Every choice is a function of the seed and the sample's number."""
