"""The commands of `run_pipeline.py`, one file per subject, in the order of the help."""

from pipelines.commands import compare, images, judge, look, models, runs, schedules, settings, stacks, study, sync
from pipelines.commands.common import app

for command in (
    runs.run,
    runs.plan,
    settings.settings,
    runs.job,
    images.generate,
    images.words,
    judge.evaluate,
    models.export,
    compare.compare,
    models.promote,
    models.rollback,
    models.delete,
    models.gc,
    sync.sync,
    look.status,
    look.ui,
    look.doctor,
):
    app.command()(command)
app.add_typer(stacks.stack, name="stack")
app.add_typer(schedules.app, name="schedule")
app.add_typer(study.app, name="study")
