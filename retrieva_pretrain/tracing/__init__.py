"""The peak memory of a training step, traced on fake tensors: nothing is allocated, and no GPU is needed.

`retrieva plan RECIPE --trace` builds the real model, its optimizer and a step of each stage in a process of its own.
Only `trace.py` may be imported elsewhere: the rest changes torch and megatron-core for the life of a process.
"""
