"""The commands of `run_pipeline.py`, one file per subject, in the order of the help."""

from pipelines.commands import images, look, models, runs, stacks
from pipelines.commands.app import app

for command in (
    runs.run,
    runs.plan,
    runs.job,
    images.generate,
    images.words,
    models.export,
    look.status,
    look.ui,
    look.doctor,
):
    app.command()(command)
app.add_typer(stacks.stack, name="stack")

__all__ = ["app"]
