"""The projections: log → tables. A family is a module with its TABLES and rows(view), what a run's view says in them.

To add one: its file, its entry in PROJECTIONS, one migration. sessions and usage are computed from the others' tables.
"""

from __future__ import annotations

from recorder.projections import (
    anomalies,
    answers,
    costs,
    failures,
    folds,
    messages,
    pending_sums,
    run_steps,
    runs,
    sessions,
    silences,
    usage,
)

PROJECTIONS = (runs, run_steps, messages, failures, anomalies)
"""Families whose rows belong to one run each: they are replaced, run by run."""

READ_MODEL = tuple(table for family in (*PROJECTIONS, sessions, silences, usage) for table in family.TABLES)
"""All tables that people query."""

PROJECTED = (*folds.TABLES, *answers.TABLES, *READ_MODEL)
"""All tables that can be rebuilt from the log."""

PRICED = costs.TABLES
"""What runs cost: of the log and of prices that change."""

WORKING = pending_sums.TABLES
"""What projecting keeps for itself."""
