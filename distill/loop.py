"""What every training here does: steps, a record and a checkpoint per epoch, the best one kept, an exact resumption."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..pipeline.errors import ConfigError, SplitrailError, UsageError
from .checkpoint import BEST, LAST, Checkpoint, Position
from .crew import Crew
from .curves import CURVES, draw_curves
from .goal import value_at
from .learner import Batch
from .loader import TrainingBatches
from .recipe import Recipe
from .student_recipe import StudentRecipe

RECORDS = "train.jsonl"


class TrainingError(SplitrailError):
    """The training cannot go on; the last good checkpoint is there."""


@dataclass(frozen=True)
class Progress:
    """Where the training is, for who watches it."""

    epoch: int
    num_epochs: int
    batch: int
    num_batches: int
    loss: float


Watch = Callable[[Progress | dict[str, Any]], None]
"""Called after every step with where it is, and after every epoch with its record."""


@dataclass(frozen=True)
class Pace:
    """What a loop needs of a recipe."""

    seed: int
    num_epochs: int
    evaluate_every_epochs: int
    checkpoint_every_s: float
    precision: str
    """fp32 or bf16, of the forward pass."""
    clip_norm: float
    """Gradients are scaled down to this norm; 0: never."""

    @staticmethod
    def of(recipe: Recipe | StudentRecipe) -> Pace:
        """That of a recipe."""
        return Pace(
            seed=recipe.seed,
            num_epochs=recipe.num_epochs,
            evaluate_every_epochs=recipe.evaluate_every_epochs,
            checkpoint_every_s=recipe.checkpoint_every_s,
            precision=recipe.optimiser.precision,
            clip_norm=recipe.optimiser.clip_norm,
        )


class TrainingLoop(ABC):
    """A training of `learner` from `position` into the folder `out`.

    A resumed training ends with the same weights, bit for bit on the CPU with the same number of threads, as an unbroken
    one. Of several processes each makes a loop with its `crew`; the first one writes. Raises UsageErrors for an `out` that
    cannot be made, packages that are missing and a precision that this machine lacks.
    """

    goal = "mAP"
    """Key, in an epoch's record (`value_at`), of what is to become large; the best checkpoint is the one where it is largest."""
    kind = "size"
    """Key in an epoch's record; only records with the same value there can be compared by `goal`."""

    def __init__(
        self,
        pace: Pace,
        learner: nn.Module,
        position: Position,
        out: Path,
        device: torch.device | None,
        watch: Watch | None,
        crew: Crew | None,
    ) -> None:
        if importlib.util.find_spec("pycocotools") is None:
            raise UsageError(
                "pycocotools is not installed and a training is evaluated with it; pip install 'splitrail[bench]'"
            )
        self.pace = pace
        self.out = out
        self.device = device or torch.device("cpu")
        _check_precision(pace.precision, self.device)
        self.learner = learner.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.position = position
        self._crew = crew or Crew()
        self._watch = watch or (lambda _: None)
        self._optimiser: torch.optim.Optimizer

    @abstractmethod
    def _losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Scalars; "loss" is what is minimised, the others are to be looked at."""

    @abstractmethod
    def _set_rate(self) -> None:
        """Set the learning rates for the step that comes."""

    @abstractmethod
    def _judge(self) -> dict[str, Any]:
        """What an evaluation adds to the epoch's record, `goal` among it."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """What else is in the epoch's record, `kind` among it."""

    def _is_due(self) -> bool:
        """Whether there is an evaluation after the epoch that ended."""
        epoch = self.position.epoch
        return epoch == self.pace.num_epochs or epoch % self.pace.evaluate_every_epochs == 0

    def _after_step(self) -> None:  # noqa: B027 -- most have nothing to do
        """What follows an optimiser's step."""

    def _more_tensors(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint besides those of the learner, the optimiser and the random generators."""
        return {}

    def _make_folder(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.out} cannot be made ({error.strerror}); give another --out") from error
        self._write_records()

    def _epoch(self, batches: TrainingBatches) -> None:
        """One epoch, or what is left of it."""
        position = self.position
        self.learner.train()
        begin = saved = time.monotonic()
        for batch in batches.epoch(position.epoch, position.batch):
            self._step(batch.to(self.device))
            position.batch += 1
            loss = position.sums["loss"] / position.batch
            self._watch(Progress(position.epoch, self.pace.num_epochs, position.batch, batches.num_batches, loss))
            if time.monotonic() - saved >= self.pace.checkpoint_every_s:
                self._save(LAST)
                saved = time.monotonic()
        record: dict[str, Any] = {
            "epoch": position.epoch + 1,
            "step": position.step,
            **self._facts(),
            "lr": self._optimiser.param_groups[-1]["lr"],
            **{name: round(value / position.batch, 5) for name, value in position.sums.items()},
            "seconds": round(time.monotonic() - begin, 1),
        }
        position.epoch, position.batch, position.sums = position.epoch + 1, 0, {}
        if self._is_due() and self._crew.leads:
            record |= self._judge()
        position.history.append(record)
        before = [line for line in position.history[:-1] if line[self.kind] == record[self.kind]]
        is_first = all(value_at(line, self.goal) is None for line in before)
        reached = value_at(record, self.goal)
        if reached is not None and (is_first or reached > position.best):
            position.best = reached
            self._save(BEST)
        self._save(LAST)
        self._write_records()
        self._watch(record)

    def _step(self, batch: Batch) -> None:
        position = self.position
        self._set_rate()
        self._crew.seed_step(self.pace.seed, position.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.pace.precision == "bf16"):
            losses = self._losses(batch)
        self._optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        learning = [parameter for parameter in self.learner.parameters() if parameter.requires_grad]
        self._crew.average_gradients(learning)
        norm = torch.nn.utils.clip_grad_norm_(learning, self.pace.clip_norm or math.inf)
        values = {name: float(value.detach()) for name, value in losses.items()}
        # Before the weights are touched, so that the checkpoints on disk are all good ones.
        for what, value in (("loss", values["loss"]), ("gradient", float(norm))):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the {what} became {value} at step {position.step + 1} (epoch {position.epoch + 1}, batch "
                    f"{position.batch + 1}); {self._remedy()}"
                )
        self._optimiser.step()
        self._after_step()
        position.step += 1
        position.sums = {name: position.sums.get(name, 0.0) + value for name, value in values.items()}

    def _remedy(self) -> str:
        path = self.out / LAST
        if not path.is_file():
            return "begin again with a lower learning rate"
        return f"the last good checkpoint is {path}: resume from it with a lower learning rate"

    def _save(self, name: str) -> None:
        if not self._crew.leads:
            return
        tensors: dict[str, Tensor] = {f"learner.{key}": value for key, value in self.learner.state_dict().items()}
        tensors |= self._more_tensors()
        if name == LAST:
            tensors |= self._to_go_on()
        Checkpoint(position=self.position, tensors=tensors).save(self.out / name)

    def _to_go_on(self) -> dict[str, Tensor]:
        """What a training needs to go on and a trained detector does not: half of a file."""
        tensors: dict[str, Tensor] = {}
        for number, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{key}": torch.as_tensor(value) for key, value in values.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors

    def _load(self, checkpoint: Checkpoint, *, with_optimiser: bool = True) -> None:
        """Weights, optimiser and random generators. Raises ConfigError where they do not fit."""
        try:
            self.learner.load_state_dict(checkpoint.part("learner"))
            self._load_more(checkpoint)
            if with_optimiser:
                self._load_optimiser(checkpoint)
        except (RuntimeError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise ConfigError(
                f"the checkpoint does not fit the recipe ({first}); resume with the one it has inside"
            ) from error
        torch.set_rng_state(checkpoint.tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["random.cuda"], self.device)

    def _load_more(self, checkpoint: Checkpoint) -> None:  # noqa: B027 -- as `_more_tensors`
        """Load what `_more_tensors` gave."""

    def _load_optimiser(self, checkpoint: Checkpoint) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in checkpoint.part("optimiser").items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": state})
        for parameter, values in self._optimiser.state.items():
            if any(value.dim() and value.shape != parameter.shape for value in values.values()):
                raise ValueError("the optimiser's values are of other parameters")

    def _write_records(self) -> None:
        """`train.jsonl` and the curves, of every epoch there is."""
        if not self._crew.leads:
            return
        history = self.position.history
        text = "".join(json.dumps(record) + "\n" for record in history)
        try:
            (self.out / RECORDS).write_text(text, encoding="utf-8")
            if history and importlib.util.find_spec("matplotlib") is not None:
                draw_curves(history, self.out / CURVES, self.goal)
        except OSError as error:
            raise UsageError(
                f"{self.out / RECORDS} cannot be written ({error.strerror}); make room and resume"
            ) from error


def _check_precision(precision: str, device: torch.device) -> None:
    if precision == "fp32" or device.type == "cuda":
        return
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        flags = ""
    if "bf16" not in flags:
        raise ConfigError("this CPU has no bf16 instructions, so bf16 would be slower than fp32; train with fp32")
