"""What commands print."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def replace_what_cannot_be_shown() -> None:
    """Print ``?`` for characters that the output cannot take, as a pipe on some Windows: a ``³`` must not end a run."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
