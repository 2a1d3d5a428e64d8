"""The errors that petrflow raises for its users."""

from __future__ import annotations


class PetrflowError(Exception):
    """Something a person can put right: one clear sentence, then the remedy. Scripts print it without a traceback."""
