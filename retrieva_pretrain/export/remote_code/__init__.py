"""The model as transformers runs it. The two modules are copied into every export as they stand, and import nothing of
this package."""
