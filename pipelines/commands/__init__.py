"""The commands of `run_pipeline.py`, one file per subject, in the order of the help."""

from pipelines.commands import compare, images, judge, look, models, runs
from pipelines.commands.app import app

for command in (
    runs.run,
    runs.plan,
    runs.job,
    images.generate,
    images.words,
    judge.evaluate,
    models.export,
    compare.compare,
    look.status,
    look.ui,
    look.doctor,
):
    app.command()(command)

__all__ = ["app"]
