"""Help whose commands are grouped by what people do, as plain text."""

import click
from typer.core import TyperGroup

# a command that is in no group is a test's failure
GROUPS = {
    "Look at recipes": ("list", "show", "check", "plan", "plot"),
    "Run stages, on this machine or a cluster": (
        "run",
        "status",
        "logs",
        "cancel",
        "resume",
        "cluster",
    ),
    "Prepare data": ("data",),
    "Evaluate and report": ("eval", "report", "generate"),
    "Merge and convert checkpoints": ("merge", "export", "import"),
    "Run one task of a chain by hand": ("train", "rollout-server"),
}


class GroupedHelp(TyperGroup):
    """A group of commands that lists them under the headings of :data:`GROUPS`."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group."""
        widest = max(len(name) for names in GROUPS.values() for name in names)
        limit = formatter.width - 6 - widest
        for title, names in GROUPS.items():
            rows = [
                (name.ljust(widest), self.commands[name].get_short_help_str(limit))
                for name in names
                if name in self.commands
            ]
            with formatter.section(title):
                formatter.write_dl(rows)
