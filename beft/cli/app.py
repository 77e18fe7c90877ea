"""The science from the command line: from bases and inspect to predict, merge and export.

Nothing slow is imported before a command runs, so that ``beft --help`` answers at once.
"""

import typer

from beft.cli import datasets
from beft.cli.adapters import export, predict
from beft.cli.bases import bases
from beft.cli.bench import bench
from beft.cli.given_texts import TakesTexts
from beft.cli.inspection import inspect
from beft.cli.learning import probe, score, train
from beft.cli.measuring import measure
from beft.cli.merging import merge

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
app.command()(bases)
app.command()(inspect)
app.command()(bench)
app.add_typer(datasets.app, name="datasets", help="List, show and check datasets.")
for command in (probe, score, train, measure):
    app.command()(command)
app.command(cls=TakesTexts)(predict)
app.command()(merge)
app.command()(export)
