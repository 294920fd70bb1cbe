"""Proofs that take minutes at their full size: `python -m tests.proofs NAME`. The suite runs them small."""
