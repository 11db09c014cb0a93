"""How a run ended, told to a webhook and to the ZenML stack's alerter.

The webhook gets one JSON object by POST, whose `text` is what chat services show. Telling never fails a run and never
holds it up for long: an attempt is given a few seconds, there is one more, and then a line in the log, without the URL.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
from pydantic import Field

from srpo.config import NotifyConfig
from srpo.config.notify import Event
from srpo.errors import BusyError, ConfigError, KnownError, OutOfSightError, RemoteRunError
from srpo.report.schema import Report
from srpo.strict import Strict

if TYPE_CHECKING:
    from pipelines.outcome import Outcome
    from srpo.config import RunConfig
    from srpo.tracking import TrackedRun

SECONDS, ATTEMPTS = 5.0, 2
TOLD = "srpo.told"
"""Tag of an MLflow run whose end was told."""
LOG = logging.getLogger(__name__)
logging.getLogger("httpx2").setLevel(logging.WARNING)  # what it says of each request shows the URL, a secret


class Numbers(Strict):
    """The wanted metric of the new version against another model."""

    metric: str
    before: float
    after: float
    lower: float
    """Lower end of the interval of the change."""
    upper: float


class Notice(Strict):
    """What the webhook gets."""

    event: Event
    text: str
    """All of it in a few words."""
    model: str
    """Name of the registered model."""
    run: str = ""
    version: str = ""
    """`models:/name/version`."""
    verdict: str = ""
    """promote, keep or collapsed."""
    numbers: dict[str, Numbers] = Field(default_factory=dict)
    """By what it was compared with: `base`, `champion`."""
    report: str = ""
    """Link to the report."""


def webhook(config: NotifyConfig) -> str | None:
    """The webhook's URL; None if none is asked for. ConfigError, which does not show it, if it cannot be one."""
    if config.webhook_env is None:
        return None
    url = os.environ.get(config.webhook_env, "")
    if urlsplit(url).scheme not in ("http", "https"):
        state = "holds no http(s) URL" if url else "is not set"
        raise ConfigError(f"notify.webhook_env: the environment variable {config.webhook_env} {state}")
    return url


def ended(outcome: "Outcome") -> Notice | None:
    """What is told of a run that registered a version; None of one that was to end before."""
    registered, evaluated = outcome.registered, outcome.evaluated
    if registered is None or evaluated is None:
        return None
    report = Report.model_validate_json(Path(evaluated.report_json).read_text(encoding="utf-8"))
    event: Event = "champion" if registered.alias == "champion" else "kept"
    if evaluated.verdict == "collapsed":
        event = "collapsed"
    version, link = f"models:/{registered.name}/{registered.version}", _link(outcome)
    return Notice(
        event=event,
        text=f"{outcome.record.name}: {version} is {registered.outcome}. {evaluated.reason} {link}",
        model=registered.name,
        run=outcome.record.name,
        version=version,
        verdict=evaluated.verdict,
        numbers=_numbers(report),
        report=link,
    )


def _numbers(report: Report) -> dict[str, Numbers]:
    found = {contrast.reference: contrast.metrics.get(report.wanted) for contrast in report.contrasts}
    return {
        name: Numbers(
            metric=report.wanted,
            before=metric.reference,
            after=metric.candidate,
            lower=metric.lower,
            upper=metric.upper,
        )
        for name, metric in found.items()
        if metric
    }


def _link(outcome: "Outcome") -> str:
    """The report on the MLflow server, where there is one; else the file."""
    assert outcome.evaluated
    return page_of(outcome.record.tracked) or Path(outcome.evaluated.report_html).resolve().as_uri()


def page_of(tracked: "TrackedRun") -> str | None:
    """A run's page on its MLflow server; None where MLflow is no server, or does not answer."""
    if urlsplit(tracked.uri).scheme not in ("http", "https"):
        return None
    from mlflow.exceptions import MlflowException

    from srpo.tracking import connect

    try:
        experiment = connect(tracked.uri).get_run(tracked.run_id).info.experiment_id
    except MlflowException:
        return None
    return run_page(tracked.uri, experiment, tracked.run_id)


def run_page(uri: str, experiment: str, run_id: str) -> str:
    """A run's files on an MLflow server, without the user and password that its address may hold."""
    place = urlsplit(uri)
    root = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return f"{root}/#/experiments/{experiment}/runs/{run_id}/artifacts"


@contextmanager
def failure_told(config: "RunConfig", run: str = "") -> Iterator[None]:
    """Tell what goes wrong inside, then let it go on; to be stopped by hand is no failure."""
    try:
        yield
    except (BusyError, OutOfSightError):
        raise  # it goes on, or may
    except Exception as error:
        # what others say, and a pod's last line, may hold anything
        told = isinstance(error, KnownError) and not isinstance(error, RemoteRunError)
        said = f"{type(error).__name__}{f': {error}' if told else ', see its log'}"
        name = config.registry.model_name
        tell(config.notify, Notice(event="failed", text=f"{run or name} failed: {said}", model=name, run=run))
        raise


def tell_once(config: NotifyConfig, notice: Notice, tracked: "TrackedRun") -> None:
    """Send a notice of a run, unless its MLflow run says that some machine has: others may look at it too."""
    from mlflow.exceptions import MlflowException

    from srpo.tracking import connect

    client = connect(tracked.uri)
    with suppress(MlflowException):  # twice is better than never
        if TOLD in client.get_run(tracked.run_id).data.tags:
            return
    tell(config, notice)
    with suppress(MlflowException):
        client.set_tag(tracked.run_id, TOLD, notice.event)


def tell(config: NotifyConfig, notice: Notice) -> None:
    """Send a notice over all channels, if its event is one that is told; the webhook does not wait for ZenML."""
    if notice.event not in config.events:
        return
    channels: dict[str, Callable[[], object]] = {"alerter": lambda: _alert(notice.text)}
    if config.webhook_env is not None:
        channels = {"webhook": lambda: _post(webhook(config), notice)} | channels
    for channel, deliver in channels.items():
        for _ in range(ATTEMPTS):
            problem = _problem(deliver)
            if problem is None:
                break
        else:
            LOG.warning("the notice %r did not reach the %s: %s", notice.event, channel, problem)


def _alert(text: str) -> None:
    """Say it by the active stack's alerter, if it has one."""
    from zenml.client import Client

    if (alerter := Client().active_stack.alerter) and not alerter.post(text):
        raise ConnectionError


def _post(url: str | None, notice: Notice) -> None:
    """A redirect, which is not followed, is an error."""
    assert url
    httpx2.post(url, json=notice.model_dump(mode="json"), timeout=SECONDS).raise_for_status()


def _problem(deliver: Callable[[], object]) -> str | None:
    """What kept a delivery from arriving, within a few seconds, by its kind alone: messages of errors hold URLs."""
    problems: list[str] = []

    def attempt() -> None:
        try:
            deliver()
        except httpx2.HTTPStatusError as error:
            problems.append(f"it answered with status {error.response.status_code}")
        except ConfigError as error:
            problems.append(str(error))
        except Exception as error:
            problems.append(type(error).__name__)
        else:
            problems.append("")

    thread = Thread(target=attempt, daemon=True)  # a name that is looked up, or a slow answer, has no time limit
    thread.start()
    thread.join(SECONDS)
    return (problems[0] or None) if problems else f"no answer within {SECONDS:g} s"
