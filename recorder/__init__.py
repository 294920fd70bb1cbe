"""recorder: every event of an LLM run in a SQL log, folded into runs, steps and usage, and replayed.

The command line is the interface so far (`recorder --help`); the modules are listed in the README in the order of the flow.
"""
