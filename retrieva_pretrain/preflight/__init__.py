"""Checks of a cluster's nodes before a run. `judge.py` knows what is good, `machine.py` and `rates.py` measure."""
