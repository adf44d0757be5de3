"""Keeps what upstream says of itself out of a run's log.

megatron-core warns at import for every optional package it does not find, in every process, and of its own
deprecations; torch of those that megatron-core has not followed. None of it is in a user's hands. What a run
uses of the optional packages, it says itself.
"""

from __future__ import annotations

import logging
import warnings


def quiet_upstream() -> None:
    """Silence warnings raised inside megatron-core and torch; errors pass. Call it before importing them."""
    # On the host every torch call passes through `platform/host.py`, which is blamed for upstream's.
    for module in (r"megatron\..*", r"torch\..*", r"retrieva_pretrain\.platform\.host"):
        warnings.filterwarnings("ignore", module=module)
    # Raised inside our own call stack, on behalf of megatron-core's.
    warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
    logging.getLogger("megatron").setLevel(logging.ERROR)
