"""Replay: what was recorded goes out again, in its chunks and at its pace."""
