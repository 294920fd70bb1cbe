"""What is given on the command line: types (times, numbers that are numbers), and the options that several commands share."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, TypeVar

import click

from recorder.errors import UsageError

if TYPE_CHECKING:
    from recorder.prices import Prices
    from recorder.settings import Settings

MOST = 1_000_000_000
"""The largest count or position that a command takes: no database has a larger number than one of 64 bits."""

_AGO = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class When(click.ParamType[datetime]):
    """A time as `2026-11-22`, `2026-11-22T10:30`, or how long ago: `90m`, `24h`, `7d`. Without a zone it is UTC, or --tz's."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        ago = _AGO.fullmatch(value)
        if ago:
            try:
                return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            except OverflowError:
                self.fail(f"{value!r} ago lies before the calendar")
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time; write 2026-11-22, 2026-11-22T10:30, or how long ago: 90m, 24h, 7d")
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=UTC if ctx is None else ctx.params.get("zone", UTC))  # --tz is taken first
        try:
            return parsed.astimezone(UTC)
        except OverflowError:
            self.fail(f"{value!r} lies beyond the calendar in UTC")


class Zone(click.ParamType[tzinfo]):
    """A time zone by its name."""

    name = "zone"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tzinfo:
        if isinstance(value, tzinfo):
            return value
        if value.upper() in ("UTC", "Z"):
            return UTC
        from zoneinfo import ZoneInfo

        try:
            return ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            self.fail(f"{value!r} is no time zone that is known here; write Europe/Oslo, America/New_York or UTC")


class Finite(click.FloatRange):
    """A number in a range; NaN, which is in none, is refused too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return float(number)


Command = TypeVar("Command", bound=Callable[..., Any])


def listening(port: int) -> Callable[[Command], Command]:
    """--host, --port, --token and --allow-host of a server; guarded() is to look at the first and the third."""
    host_option = click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        help="Address to listen on; beyond this machine (0.0.0.0 …) a token is needed.",
    )
    token_option = click.option(
        "--token",
        envvar="RECORDER_TOKEN",
        show_envvar=True,
        help="What every request must carry, in the header X-Recorder-Token.",
    )
    port_option = click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=port,
        show_default=True,
        help="Port to listen on; 0 takes a free one.",
    )
    return lambda command: host_option(port_option(token_option(allowing(command))))


def allowing(command: Command) -> Command:
    """--allow-host of what listens; gate.Names takes it."""
    option = click.option(
        "--allow-host",
        multiple=True,
        metavar="NAME",
        help="Another name that clients, and pages in a browser, may call it by; `*` is any. May be given again.",
    )
    return option(command)


def guarded(host: str, token: str | None) -> str | None:
    """The token that a server asks for, None where it needs none. Raises UsageError where it needs one and has none."""
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageError("the token has characters that no header can carry; take letters and digits")
    if not token and not _on_loopback(host):
        raise UsageError(f"--host {host} lets other machines in: set a token for them to send, with --token or RECORDER_TOKEN")
    return token or None


class SettingsFile(click.ParamType["Settings"]):
    """A TOML file of settings."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Settings:
        from recorder.settings import load

        return load(value)


class PricesFile(click.ParamType["Prices"]):
    """A TOML file of prices."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Prices:
        from recorder import prices
        from recorder.prices import Prices

        return value if isinstance(value, Prices) else prices.load(value)


def configured(command: Command) -> Command:
    """--settings: what is redacted, left out or limited."""
    from recorder.settings import VARIABLE, Settings

    option = click.option(
        "--settings",
        type=SettingsFile(),
        envvar=VARIABLE,
        show_envvar=True,
        default=Settings,
        metavar="FILE",
        help="What is redacted, left out or limited: a TOML file.",
    )
    return option(command)


def pacing(command: Command) -> Command:
    """--speed, --instant and --max-gap of a replay."""
    speed_option = click.option(
        "--speed",
        type=Finite(min=0, min_open=True),
        default=1.0,
        show_default=True,
        metavar="N",
        help="N times the original pace.",
    )
    instant_option = click.option("--instant", is_flag=True, help="All at once.")
    max_gap_option = click.option(
        "--max-gap", type=Finite(min=0), metavar="S", help="Shorten every pause to S seconds at the most."
    )
    return speed_option(instant_option(max_gap_option(command)))


def by_hand(command: Command) -> Command:
    """--step and --pause-at of a replay."""
    step_option = click.option("--step", is_flag=True, help="Let events go one by one: each at a key (c goes on).")
    pause_option = click.option(
        "--pause-at",
        multiple=True,
        metavar="P|TYPE",
        help="Pause at the event at this position, or the first of this type; a key lets it go. May be given again.",
    )
    return step_option(pause_option(command))


def faulty(command: Command) -> Command:
    """--fault of a replay; faults.plan() reads it."""
    from recorder.replay.faults import EXAMPLES

    option = click.option(
        "--fault",
        "faults",
        multiple=True,
        metavar="FAULT",
        help=f"What is to go wrong: {', '.join(EXAMPLES)}. Several go together.",
    )
    return option(command)


def _on_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
