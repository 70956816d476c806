"""The training loop, for every task: forward, backward, clip, step, log, evaluate, save.

:meth:`Trainer.fit` is the whole of it, top to bottom. What it calls is either one line of torch or
accelerate, or a part of this package that is about one thing.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    broadcast_object_list,
    gather_object,
    set_seed,
)
from torch import nn

from owlkit.config import OptimSection, TrainSection
from owlkit.encoders import TextTower, VisionTower
from owlkit.encoders.hub import MANIFEST
from owlkit.engine.accelerator import create_accelerator, prepare_task, share_of_batch
from owlkit.engine.checkpoint import (
    finish_interrupted_swap,
    load_module_tensors,
    load_optimizer_tensors,
    module_tensors,
    optimizer_tensors,
    read_checkpoint,
    update_state,
    write_checkpoint,
)
from owlkit.engine.clipping import make_clipping
from owlkit.engine.ema import WeightAverage
from owlkit.engine.gradient_cache import check_accumulation
from owlkit.engine.group_schedule import GroupSchedule
from owlkit.engine.kept_memory import kept_memory
from owlkit.engine.metrics import Meter, Outcome, StepReport, peak_memory_gib, report_step
from owlkit.engine.parameter_groups import freeze_parts, make_optimizer
from owlkit.engine.random_state import (
    random_state,
    restore_random_state,
    undisturbed_random_state,
)
from owlkit.engine.run import Ending, Evaluation, RunOutput, RunState, TrainingSummary
from owlkit.engine.stop_request import StopRequest
from owlkit.engine.task import Batch, call_hook
from owlkit.errors import TrainingError

logger = logging.getLogger(__name__)

MOST_CORRUPT = 0.01
"""A run stops when a larger share of the files it opens cannot be read ..."""

CORRUPT_AFTER = 200
"""... but not before it has opened so many."""


class Trainer:
    """Trains a task: any module that turns a batch into a loss.

    Every process of a distributed run makes the same trainer; accelerate joins them.

    Args:
        task: Its ``forward(batch)`` returns scalars by name, ``loss`` among them, always the same
            names; terms are means over the batch's examples. Its ``model`` is what is saved and
            evaluated. If parts of a batch need to know something about the whole, its
            ``prepare(batch)`` returns the batch with it; if its loss couples the examples of a
            batch, ``accumulation`` is the number of parts that it prepares. If some weights get no
            gradient in some steps, ``find_unused_parameters`` says so (True). Further methods are
            called if the task has them: ``begin_step(step)`` before each step, and before
            ``prepare``, with the number of steps taken; ``finish_step()`` after the optimiser's
            step (also one that float16 skips), to bring weights back into their bounds or to let
            others follow them; ``check_means(step, means)`` on every process after each line of the
            log, with what it holds as means over steps, to raise TrainingError if the run has gone
            astray: ``last/`` then stays what it was.
        optim: Optimiser, parameter groups, schedule and clipping.
        train: The loop.
        make_batches: Takes the step to start at; returns this process's batches from there on, one
            a step, each of ``train.batch_size`` divided by the number of processes. What it yields
            for a step must not depend on where it started.
        output: Where results go.
        evaluation: How the model is measured; None writes ``best/`` at the end from the last
            weights.
        seed: Of dropout and the like; each process has its own.
        accelerator: As :func:`create_accelerator` makes it; None makes one.

    Raises:
        ConfigError: If the settings contradict one another or the hardware.
    """

    def __init__(
        self,
        task: nn.Module,
        *,
        optim: OptimSection,
        train: TrainSection,
        make_batches: Callable[[int], Iterable[Batch]],
        output: RunOutput,
        evaluation: Evaluation | None = None,
        seed: int = 0,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.accelerator = accelerator or create_accelerator(train)
        self.train = train
        self.make_batches = make_batches
        self.output = output
        self.evaluation = evaluation
        self.seed = seed
        self.state = RunState()
        self.meter = Meter()
        self._examples_per_batch = share_of_batch(train, self.accelerator)
        check_accumulation(task, optim=optim, train=train)
        self._bare_task, self.model = task, task.get_submodule("model")

        task.train()
        freeze_parts(task, self.model, optim.freeze)
        if train.compile:
            for module in task.modules():
                if isinstance(module, VisionTower | TextTower):
                    module.compile()
        self.task = prepare_task(task, self.accelerator)
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(task, optim))
        self.rates = GroupSchedule(self.optimizer, optim, steps=train.steps)
        self.clipping = make_clipping(
            optim, task=self.task, accelerator=self.accelerator, accumulation=train.accumulation
        )
        self.average = WeightAverage(self.model, train.ema_decay) if train.ema_decay else None

    def fit(self, *, resume: bool = False) -> TrainingSummary:
        """Trains until all steps are taken, nothing improves any more, or a signal asks to stop.

        Args:
            resume: Go on from ``last/`` as if nothing had happened, instead of beginning anew.

        Returns:
            How the run ended, with the last and best metrics.

        Raises:
            TrainingError: If a loss is not finite, too many images cannot be read, or the task's
                ``check_means`` says so.
            CheckpointError: If there is nothing to resume or it does not fit.
        """
        self._resume() if resume else self._begin()
        with kept_memory(self.accelerator.device), StopRequest() as stop:
            self._evaluate_if_due()  # if the run that resumes was stopped before it did so
            for batch in self._batches():
                self.rates.set(self.state.step)
                parts = self.clipping.split(batch)
                outcomes: list[Outcome] = []
                for part in parts:
                    with self.clipping.communication(last=part is parts[-1]):
                        terms = self.task(part)
                        self.accelerator.backward(terms["loss"] * (len(part) / len(batch)))
                    self.clipping.collect()
                    outcomes.append((part, {name: term.detach() for name, term in terms.items()}))
                report = report_step(  # raises if anything is not finite
                    self.accelerator,
                    outcomes,
                    gradient_norm=self.clipping.finish(),
                    images_read=batch.images_read,
                    corrupt=len(batch.corrupt),
                    stop=stop.requested,
                    step=self.state.step,
                )
                self.optimizer.step()
                self.optimizer.zero_grad()
                call_hook(self._bare_task, "finish_step")
                if self.average is not None:
                    self.average.update(self.model)
                self.state.step += 1
                self._log(report)

                if report.stop or self._evaluation_is_due or self._is_due(self.train.save_every):
                    self._save()
                if report.stop:
                    break
                self._evaluate_if_due()
        return TrainingSummary(self._ending or "interrupted", self.state, stop.signal)

    def _begin(self) -> None:
        # numpy takes seeds of 32 bits.
        set_seed((self.seed + self.accelerator.process_index) % 2**32)
        self._start_clock()
        if self.accelerator.is_main_process:
            self.output.folder.mkdir(parents=True, exist_ok=True)
            self.output.log.rewind(0)  # lines of a run that was killed before it saved anything
            self.output.write_config()

    def _start_clock(self) -> None:
        self._began = time.perf_counter() - self.state.seconds
        self.meter.start()

    def _batches(self) -> Iterator[Batch]:
        """This process's batches, on its device, for the steps that are left."""
        batches: Iterator[Batch] | None = None
        while self._ending is None:
            with self.meter.waiting():
                if batches is None:
                    # Starting a loader draws random numbers; a run that resumes does so once more.
                    with undisturbed_random_state():
                        batches = iter(self.make_batches(self.state.step))
                        batch = next(batches, None)
                else:
                    batch = next(batches, None)
            batch = self._checked(batch).to(self.accelerator.device, non_blocking=True)
            call_hook(self._bare_task, "begin_step", self.state.step)
            yield self._prepare_batch(batch)

    def _checked(self, batch: Batch | None) -> Batch:
        where = f"step {self.state.step} of {self.train.steps}"
        if batch is None:
            raise TrainingError(f"{where}: expected a batch, found the end of the data")
        if len(batch) != self._examples_per_batch:
            raise TrainingError(
                f"{where}: expected {self._examples_per_batch} examples in the batch of each "
                f"process, found {len(batch)}"
            )
        return batch

    def _prepare_batch(self, batch: Batch) -> Batch:
        """The batch with what its parts have to know about the whole, if the task needs that."""
        prepare = getattr(self._bare_task, "prepare", None)
        if prepare is None:
            return batch
        with self.accelerator.autocast():  # in the precision of the forward pass
            prepared: Batch = prepare(batch)
        return prepared

    def _log(self, report: StepReport) -> None:
        state, log = self.state, self.output.log
        state.examples += report.examples
        state.images_read += report.images_read
        state.corrupt += report.corrupt
        self.meter.add(report)
        speed = {"images_per_second": self.meter.images_per_second}
        log.progress(state.step, {"loss": report.terms["loss"], **speed})
        if self._is_due(self.train.log_every):
            memory = peak_memory_gib(self.accelerator.device)
            names = ("examples", "images_read", "corrupt")
            counts = {name: getattr(state, name) for name in names}
            means, rates = self.meter.flush(), self.rates.report()
            log.log(state.step, {**means, **rates, "memory_gib": memory, **counts})
            call_hook(self._bare_task, "check_means", state.step, means)
        opened = state.images_read
        if opened >= CORRUPT_AFTER and state.corrupt > MOST_CORRUPT * opened:
            raise TrainingError(
                f"step {state.step}: expected at most {MOST_CORRUPT:.0%} unreadable images, found "
                f"{state.corrupt} of {opened}; the log names them"
            )

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.train.steps

    @property
    def _ending(self) -> Ending | None:
        """Why there are no more steps to take, if so."""
        patience = self.train.early_stopping
        if self._evaluation_is_due:
            return None
        if self.state.step >= self.train.steps:
            return "finished"
        if patience is not None and self.state.evaluations_since_best >= patience:
            return "stopped_early"
        return None

    @property
    def _evaluation_is_due(self) -> bool:
        """Whether this step's model is still to be measured or, without measure, kept."""
        every = self.train.steps if self.evaluation is None else self.train.eval_every
        return self._is_due(every) and self.state.evaluated < self.state.step

    def _evaluate_if_due(self) -> None:
        """Measures what has just been saved, keeps it if it is the best so far, and notes that.

        A run that dies in between is resumed here.
        """
        if not self._evaluation_is_due:
            return
        model = self.model if self.average is None else self.average.model
        if self.evaluation is None:
            self._keep_as_best(model)
        else:
            self._evaluate(model, self.evaluation)
        self.state.evaluated = self.state.step
        self.state.seconds = time.perf_counter() - self._began
        if self.accelerator.is_main_process:
            update_state(self.output.folder / "last", run=asdict(self.state))
        self.meter.start()

    def _evaluate(self, model: nn.Module, evaluation: Evaluation) -> None:
        """Measures a model and leaves no trace in it."""
        with evaluation_mode(model), undisturbed_random_state(), torch.no_grad():
            measured = evaluation.measure(model, self.state.step)
        metrics: dict[str, float] = broadcast_object_list([dict(measured)])[0]
        self.output.log.log(self.state.step, metrics, kind="eval")
        self.state.metrics = metrics
        if evaluation.best_metric not in metrics:
            raise TrainingError(
                f"expected the metric {evaluation.best_metric!r}, by which the best model is "
                f"chosen; the evaluation returned {sorted(metrics)}"
            )
        value = metrics[evaluation.best_metric]
        if value > (float("-inf") if self.state.best is None else self.state.best):
            self.state.best, self.state.best_step = value, self.state.step
            self.state.evaluations_since_best = 0
            self._keep_as_best(model)
        else:
            self.state.evaluations_since_best += 1

    def _keep_as_best(self, model: nn.Module) -> None:
        if self.accelerator.is_main_process:
            self.output.save_model(model, self.output.folder / "best")
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        self.state.seconds = time.perf_counter() - self._began
        generators = gather_object([random_state()])
        if self.accelerator.is_main_process:
            tensors = {
                "task": module_tensors(self._bare_task),
                "optimizer": optimizer_tensors(self.optimizer),
            }
            if self.average is not None:
                tensors["average"] = module_tensors(self.average.model)
            scaler = self.accelerator.scaler
            write_checkpoint(
                self.output.folder / "last",
                save_model=partial(self.output.save_model, self.model),
                tensors=tensors,
                state={
                    "run": asdict(self.state),
                    "meter": self.meter.state(),
                    "random": generators,
                    "scaler": scaler.state_dict() if scaler is not None else None,
                },
            )
        self.accelerator.wait_for_everyone()
        self.meter.start()

    def _resume(self) -> None:
        folder = self.output.folder / "last"
        with self.accelerator.main_process_first():
            tensors, saved = read_checkpoint(folder)
            # The old best model is the one that the checkpoint knows.
            finish_interrupted_swap(self.output.folder / "best", whole=[f"old/{MANIFEST}"])
        source = f"{folder}/training"
        load_module_tensors(self._bare_task, tensors["task"], source=source)
        load_optimizer_tensors(self.optimizer, tensors["optimizer"], source=source)
        if self.average is not None:
            # A run that did not average begins to do so with the weights that it has.
            average = tensors.get("average", module_tensors(self.model))
            load_module_tensors(self.average.model, average, source=source)
        if self.accelerator.scaler is not None and saved["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.state = RunState(**saved["run"])
        self.meter.restore(saved["meter"])
        if not (self.output.folder / "best").exists():
            self.state.best = None  # lost, when a run was killed while replacing it
        self.output.log.rewind(self.state.step, evaluated=self.state.evaluated == self.state.step)
        if self.accelerator.is_main_process:
            self.output.write_config(step=self.state.step)
        self._start_clock()
        if len(saved["random"]) == self.accelerator.num_processes:
            restore_random_state(saved["random"][self.accelerator.process_index])
        else:
            logger.warning(
                "the checkpoint was written by %d processes, this run has %d: dropout and the like "
                "will draw other numbers",
                len(saved["random"]),
                self.accelerator.num_processes,
            )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and each of its modules back into the mode it was in."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
