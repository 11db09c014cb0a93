"""What a training run works with, and what its checkpoints hold; the loop itself is in `srpo.train`."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import nn

from srpo.artifacts import Trained, TrainJob
from srpo.batches import Batches
from srpo.budget import Budget
from srpo.checkpoint import config_of, load_state, load_weights, read_weights, save_own, save_state, save_weights
from srpo.criteria import load_criteria, measure_scales
from srpo.durable.checkpoints import CheckpointCopies
from srpo.errors import ConfigError, PreemptedError, TrainingStoppedError, UnreachableError
from srpo.evaluation.scores import summarise
from srpo.files import atomic_folder, write_atomic
from srpo.held_out import load_held_out
from srpo.hub import snapshot
from srpo.methods import make_method
from srpo.models import check_guidance
from srpo.monitor import check_ratios
from srpo.preemption import Preemption
from srpo.record import Clock, Record
from srpo.same_run import contents_of, refuse_other_contents, refuse_other_settings
from srpo.sharding import defer_reduction, is_sharded, release, whole
from srpo.start import BASE, begin_from
from srpo.trained_model import export, trained_model
from srpo.tuning import make_optimizer, make_scheduler, restore_scheduler, stepping

RESULT = "result.json"

Answer = TypeVar("Answer")


class Trainer:
    """What an update works with, and what a checkpoint holds."""

    def __init__(self, job: TrainJob, accelerator: Accelerator, copies: CheckpointCopies, budget: Budget) -> None:
        self.config = config = job.config
        self.accelerator = accelerator
        self.output_dir = Path(job.output_dir)
        self.copies, self.store = copies, copies.store
        state = self._state()
        # a plan sees no model still to be fetched
        check_guidance(config.model, job.weights.model.path, config.guidance)
        set_seed(config.seed)
        self.model, self.parameters = trained_model(config, job.weights.model.path, accelerator)
        self.start = job.start
        self.criteria = load_criteria(config, job.weights, accelerator.device)
        self.method = make_method(config, self.model, self.criteria, accelerator.autocast)
        self.batches = Batches(config, self.model, self.method, job.prompts, accelerator)
        self.contents = contents_of(job, self.method.words_digest)
        self.optimizer = make_optimizer(self.parameters, config.train)
        self.scheduler = make_scheduler(self.optimizer, config.train)
        self.update = self.saved = 0
        """The present one, and the last that has a checkpoint."""
        self.before: Mapping[str, bytes] | None = None
        """Of an update that has begun."""
        self.seconds = 0.0
        self.budget = budget
        self._resume(state)
        self.record = Record(self.output_dir, self.update, config, accelerator.is_main_process)
        if accelerator.is_main_process:
            copies.start(self.record.best())
        self.stopped = self._stop_reason()
        self.held_out = load_held_out(job, self.criteria, accelerator, goes_on=self.update > 0)

    @property
    def num_injections(self) -> int:
        """Injections of one process that an update's gradient is averaged over."""
        return self.config.train.accumulation * self.config.num_injections

    @property
    def learning_rate(self) -> float:
        """Of the step that comes next."""
        return float(self.scheduler.get_last_lr()[0])

    def begin(self) -> None:
        """The next update; what a checkpoint of the one before it would hold is kept until this one's step."""
        self.before = self.batches.state()
        self.update += 1

    def due(self, every: int) -> bool:
        """Every so many updates, and at the end."""
        return self.update % every == 0 or self.update == self.config.train.num_updates

    def expect(self, more: bool) -> None:
        """Whether more micro-batches follow the one that begins: then its gradients may wait to be reduced."""
        if self.config.train.reduce == "each_update":
            defer_reduction(self.model.transformer, more)

    def reduce_and_clip(self) -> float:
        """Average the gradients over processes, scale them down to `max_grad_norm`; the norm before that."""
        release(self.model.transformer)
        if self.accelerator.num_processes > 1 and not is_sharded(self.model.transformer):
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        return float(whole(nn.utils.clip_grad_norm_(self.parameters, self.config.train.max_grad_norm)))

    def refuse_non_finite(self, metrics: dict[str, float]) -> None:
        """Stop before the step; the checkpoints stay as they are."""
        bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        if bad:
            raise TrainingStoppedError(
                f"update {self.update}: {', '.join(bad)} not finite, so the step was not taken; "
                f"the last good checkpoint is {self.store.path(self.saved) if self.saved else 'the base model'}; "
                "lower train.learning_rate, or set train.precision to fp32"
            )

    def step(self) -> None:
        """One optimizer step."""
        with stepping(self.parameters):
            self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.before = None

    def log(self, metrics: dict[str, float], clock: Clock) -> None:
        """Write down the update's numbers."""
        seconds = clock.stop()
        self.seconds += sum(seconds.values())
        metrics |= {f"seconds/{part}": value for part, value in seconds.items()}
        metrics["images_per_second"] = self.config.train.images_per_update / sum(seconds.values())
        self.record.update(self.update, metrics)

    def check_budget(self) -> None:
        """Save and stop where the run has had the GPU-hours that it may take."""
        if self.budget.most is None or self.stopped:
            return
        self.stopped = self._stop_reason()
        if self.stopped:
            self.record.stopped(self.stopped)
            if not self.due(self.config.train.save_every):
                self.save()

    def watch_first(self, preemption: Preemption) -> None:
        """Measure the base, then what training starts from, if that is another.

        A checkpoint holds every weight that is trained, so a run that goes on from one needs no start. ConfigError if
        it was to go on, and the checkpoint is gone.
        """
        if self.config.train.start != BASE and self.start is None:
            raise ConfigError(
                f"{self.store.directory} has no checkpoint any more, and this job does not say where the files of "
                f"{self.config.train.start} lie, which it began from; start a new run"
            )
        self.watch(preemption, of_base=True)
        if self.start:
            begin_from(self.model.transformer, self.start.path, self.config.train.lora)
            self.watch(preemption)

    def watch(self, preemption: Preemption, of_base: bool = False) -> None:
        """Measure the held-out set and judge it against the base model's; gives way where it is told to."""
        told = partial(preemption.requested, self.accelerator)
        found = self.held_out.measure(self.model, self.update, told, of_base)
        if found is None:
            self.give_way(preemption)
        scores, measured = found
        release(self.model.transformer)
        if of_base:
            check_ratios(summarise(scores), self.config.monitor.bounds)
            measure_scales(self.criteria, scores, self.config.method.scaled_by)
        strip = None if of_base and self.start else self.held_out.strip(self.update)  # the start's shows the base's too
        self.record.measurement(self.update, measured, strip)
        self.stopped = self._stop_reason()
        if self.stopped:
            self.record.stopped(self.stopped)

    def owes_measurement(self) -> bool:
        """Whether the update that it goes on from is to be measured first, which it was told to stop in before."""
        due = self.due(self.config.monitor.every)
        return from_main(self.accelerator, lambda: due and not self.record.measured(self.update))

    def save(self, own: Mapping[str, bytes] | None = None) -> None:
        """Write a checkpoint, then drop those no longer kept. `own`: the batches' state, if not as it is now."""
        state = {"update": self.update, "seconds": self.seconds, "config": self.config.model_dump(mode="json")}
        state |= self.contents | {"scales": {each.name: each.scale for each in self.criteria}}
        main = self.accelerator.is_main_process  # the others only help to gather
        with atomic_folder(self.store.path(self.update)) if main else nullcontext() as folder:
            save_weights(folder, self.model.transformer, self.optimizer)
            save_own(folder, self.accelerator, own or self.batches.state())
            if folder:
                self.budget.note(self.output_dir)
                save_state(folder, state | {"scheduler": self.scheduler.state_dict()})
        self.saved = self.update
        if main:
            self.copies.saved(self.record.best())
        self.accelerator.wait_for_everyone()

    def give_way(self, preemption: Preemption) -> NoReturn:
        """Drop an update that has begun, save the last whole one if it is not, have it sent in the time that is left.

        Ends with a PreemptedError that says so.
        """
        release(self.model.transformer)
        self.optimizer.zero_grad(set_to_none=True)
        self.update -= self.before is not None
        if self.update != self.saved:
            self.save(self.before)
        if self.accelerator.is_main_process:
            self.budget.note(self.output_dir)
        try:
            fate = self.copies.wait(preemption.seconds_left(self.config.storage.grace_s))
        except UnreachableError as error:
            fate = str(error)
        self.accelerator.wait_for_everyone()
        saved = f"after update {self.update}, which is saved in {self.store.directory}"
        when = saved if self.update else "before the end of the first update"
        raise PreemptedError(
            f"told to stop (SIGTERM) {when}{f' ({fate})' if fate else ''}; run it again: it goes on from there"
        )

    def _stop_reason(self) -> str | None:
        """Why training should stop here, as the main process sees it; the same on every process."""
        midway = 0 < self.update < self.config.train.num_updates  # else there is nothing to show, or nothing to save
        spent = self.budget.stop_reason() if midway else None
        return from_main(self.accelerator, lambda: self.record.stop_reason() or spent)

    def _state(self) -> dict[str, Any] | None:
        """What the last checkpoint says, if there is one; ConfigError if it was made with other settings."""
        if not self.copies.newest:
            return None
        folder = self.store.path(self.copies.newest)
        state = load_state(folder)
        refuse_other_settings(folder, self.config, config_of(folder, state))
        return state

    def _resume(self, state: Mapping[str, Any] | None) -> None:
        """Go on from the last checkpoint, which says so; ConfigError if it was made with other contents."""
        self.budget.go_on(self.output_dir)
        if state is None:
            return
        folder = self.store.path(self.copies.newest)
        self.budget.before = max(self.budget.before, state.get("gpu_hours", 0.0))  # of checkpoints by srpo 0.1.0
        refuse_other_contents(folder, self.contents, state)
        load_weights(folder, self.model.transformer, self.optimizer)
        restore_scheduler(self.scheduler, state["scheduler"])
        for criterion in self.criteria:
            criterion.scale = state.get("scales", {}).get(criterion.name, criterion.scale)
        self.update = self.saved = state["update"]
        self.seconds = state["seconds"]
        self.batches.restore(folder)

    def finish(self) -> Trained:
        """Export the best checkpoint's transformer and write the result; all processes return it."""
        return from_main(self.accelerator, self._result)

    def _result(self) -> Trained:
        copied = self.copies.finish(self.config.storage.max_wait_s)
        best = self.record.best() or self.update
        self.copies.bring(best)
        exported = self.output_dir / "transformer"
        with atomic_folder(exported) as folder:
            export(self.model, self.config, read_weights(self.store.path(best)), folder)
        result = Trained(
            output_dir=str(self.output_dir),
            transformer=snapshot(exported, f"update {best} of {self.output_dir.name}"),
            best_update=best,
            num_updates=self.update,
            seconds=self.seconds,
            gpu_hours=self.budget.spent,
            stopped=self.stopped,
            out_of_budget=bool(self.stopped) and self.record.stop_reason() is None,
            copied=copied,
        )
        write_atomic(self.output_dir / RESULT, result.model_dump_json(indent=1))
        return result


def from_main(accelerator: Accelerator, ask: Callable[[], Answer]) -> Answer:
    """What the main process answers, on every process."""
    return broadcast_object_list([ask() if accelerator.is_main_process else None])[0]
