"""Every command, option, table and environment variable stands in the README, and its commands are real."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from recorder.cli import COMMANDS, cli
from recorder.log import LOG_TABLES
from recorder.projections import PRICED, PROJECTED, WORKING

README = (Path(__file__).parents[1] / "README.md").read_text()
CONTEXT = click.Context(cli)


def commands() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name in COMMANDS:
        command = cli.get_command(CONTEXT, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += [(f"{name} {inner}", command.commands[inner]) for inner in command.commands]
        else:
            found.append((name, command))
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_command_stands_in_the_readme_with_all_its_options(name: str, command: click.Command) -> None:
    row = next((line for line in README.splitlines() if line.startswith("| ") and f"`recorder {name}" in line), None)
    assert row, f"recorder {name} has no row in the README's table of commands"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for option in parameter.opts:
                assert re.search(rf"`[^`]*{re.escape(option)}\b", row), f"{option} of recorder {name} is not in its row"


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_command_explains_itself(name: str, command: click.Command) -> None:
    assert command.help
    assert all(
        parameter.help or parameter.opts[0] in ("--model", "--limit", "--format", "--label")
        for parameter in command.params
        if isinstance(parameter, click.Option)
    )


@pytest.mark.parametrize("table", [table.name for table in (*LOG_TABLES, *PROJECTED, *PRICED, *WORKING)])
def test_table_stands_in_the_readme(table: str) -> None:
    assert f"`{table}`" in README


def test_settings_stand_in_the_readme() -> None:
    given = [*cli.params, *(parameter for _, command in commands() for parameter in command.params)]
    settings = {str(parameter.envvar) for parameter in given if isinstance(parameter, click.Option) and parameter.envvar}
    assert {"RECORDER_DB", "RECORDER_TOKEN"} <= settings
    assert all(f"`{setting}`" in README for setting in settings)
