"""`recorder recost`"""

from __future__ import annotations

from datetime import datetime

import click

from recorder import database
from recorder.cli.opening import freshen, opened
from recorder.cli.output import Progress, counted, echo, emit, json_option, note, printable
from recorder.cli.parameters import PricesFile, When
from recorder.errors import UsageError
from recorder.prices import VARIABLE, Prices, load
from recorder.projections.recost import count, recost


@click.command("recost")
@click.option("--since", type=When(), metavar="TIME", help="Only runs created since: 2026-11-22, or how long ago: 24h, 7d.")
@click.option("--until", type=When(), metavar="TIME", help="Only runs created before.")
@click.option(
    "--prices",
    type=PricesFile(),
    envvar=VARIABLE,
    show_envvar=True,
    default=load,
    metavar="FILE",
    help="Your own prices, before those of genai-prices: a TOML file.",
)
@json_option
@click.pass_obj
def command(db: str, since: datetime | None, until: datetime | None, prices: Prices, as_json: bool) -> None:
    """Compute again what runs cost, each at the price of its own day. Recording may go on meanwhile."""
    if not prices:
        raise UsageError("there are no prices: install runstep-recorder[prices], or give your own with --prices FILE")
    with opened(db) as engine:
        freshen(engine)
        with database.read(engine) as connection:
            total = count(connection, since, until)
        with Progress("pricing", "runs", total=total) as progress:
            found = recost(engine, prices, since, until, progress.advance)
    without = dict(sorted(found.without_price.items(), key=lambda pair: (-pair[1], pair[0] or "")))
    if as_json:
        emit(
            {
                "runs": found.runs,
                "priced": found.priced,
                "changed": found.changed,
                "without_usage": found.without_usage,
                "without_price": [{"model": model, "runs": number} for model, number in without.items()],
                "before_usd": found.before / 1e9,
                "after_usd": found.after / 1e9,
            }
        )
        return
    was, now = (f"${nusd / 1e9:,.6f}" for nusd in (found.before, found.after))
    echo(f"{counted(found.priced, 'run')} priced, {found.changed:,} changed: {now} in all, {was} before")
    if found.without_usage:
        note(f"{counted(found.without_usage, 'run')} without known usage")
    for model, number in without.items():
        note(f"{counted(number, 'run')} of {printable(model or 'no model')}: no price is known")
