"""Benchmarks: `python -m tests.benchmarks [NAME…]`. One a file; what is compared is measured side by side, in one run."""
