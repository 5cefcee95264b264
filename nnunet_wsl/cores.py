"""How much of the machine there is for this process."""

from __future__ import annotations


def usable_cores() -> int:
    """Cores that this process may use: a container or a cluster can give it fewer than the machine has."""
    from joblib import cpu_count  # slow to import, and the command's help is made without it

    return int(cpu_count())
