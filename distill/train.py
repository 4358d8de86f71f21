"""The training of a DETR: a recipe to a folder with checkpoints, a record per epoch, and curves."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bench.coco_pictures import CocoPictures
from ..bench.pictures import Pictures, ScenePictures
from ..models.detr import Detr
from ..models.weights import load_weights
from ..pipeline.errors import ConfigError, SplitrailError, UsageError
from .average import Average
from .checkpoint import BEST, LAST, Checkpoint, Position
from .curves import CURVES, draw_curves
from .evaluate import evaluate_detr
from .learner import Batch, Learner
from .loader import SampleSet, TrainingBatches
from .recipe import Phase, Recipe
from .schedule import make_optimiser, set_rate

RECORDS = "train.jsonl"
_VALIDATION_SEED = 1000
"""Added to the recipe's, for scenes to validate on."""


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
class _Course:
    phase: Phase
    begin: int
    """Steps before the phase."""
    num_steps: int
    """Of all phases."""


class Trainer:
    """Trains by `recipe` into the folder `out`, from the beginning or from `checkpoint`.

    A resumed training ends with the same weights, bit for bit on the CPU with the same number of threads, as an unbroken
    one. Raises UsageErrors for data and weights that do not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        checkpoint: Checkpoint | None = None,
        device: torch.device | None = None,
        watch: Watch | None = None,
    ) -> None:
        if importlib.util.find_spec("pycocotools") is None:
            raise UsageError(
                "pycocotools is not installed and a training is evaluated with it; pip install 'splitrail[bench]'"
            )
        self.recipe = recipe
        self.out = out
        self.device = device or torch.device("cpu")
        _check_precision(recipe, self.device)
        self._watch = watch or (lambda _: None)
        self._training = _training_pictures(recipe)
        self._validation = _validation_pictures(recipe, self._training.classes)
        torch.manual_seed(recipe.seed)
        detr = Detr(recipe.model.config(len(self._training.classes)))
        if recipe.model.weights:
            load_weights(detr, recipe.model.weights, recipe.name)
        self.learner = Learner(detr, recipe.assistance.assistance())
        self.learner.to(self.device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._optimiser = make_optimiser(self.learner, recipe.optimiser)
        ema = recipe.optimiser.ema_decay
        self._average = Average(detr, ema) if ema else None
        self.position = Position(recipe=recipe, classes=self._training.classes)
        if checkpoint is not None:
            self._restore(checkpoint)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{out} cannot be made ({error.strerror}); give another --out") from error
        self._write_records()

    @property
    def detr(self) -> Detr:
        """What is evaluated and exported: the averaged weights where the recipe averages."""
        return self._average.detr if self._average is not None else self.learner.detr

    def run(self) -> Position:
        """Train to the end. Raises TrainingError when a loss or gradient is no number, CheckpointError when the disk is full."""
        lengths = [phase.epochs * self._num_batches(phase) for phase in self.recipe.phases]
        end = 0
        for number, phase in enumerate(self.recipe.phases):
            end += phase.epochs
            if self.position.epoch >= end:
                continue
            course = _Course(phase, sum(lengths[:number]), sum(lengths))
            if isinstance(self._training, ScenePictures):
                self._training = replace(self._training, size=phase.size)
            samples = SampleSet(self._training, phase.size, self.recipe.seed, self.recipe.data)
            batches = TrainingBatches(samples, phase.batch_size, self.recipe.data.workers)
            try:
                while self.position.epoch < end:
                    self._epoch(batches, course)
            finally:
                batches.close()
        return self.position

    def _epoch(self, batches: TrainingBatches, course: _Course) -> None:
        position, phase = self.position, course.phase
        begin = saved = time.monotonic()
        for batch in batches.epoch(position.epoch, position.batch):
            self._step(batch.to(self.device), course)
            position.batch += 1
            loss = position.sums["loss"] / position.batch
            self._watch(Progress(position.epoch, self.recipe.num_epochs, position.batch, batches.num_batches, loss))
            if time.monotonic() - saved >= self.recipe.checkpoint_every_s:
                self._save(LAST)
                saved = time.monotonic()
        record: dict[str, Any] = {
            "epoch": position.epoch + 1,
            "step": position.step,
            "size": list(phase.size),
            "lr": self._optimiser.param_groups[-1]["lr"],
            **{name: round(value / position.batch, 5) for name, value in position.sums.items()},
            "seconds": round(time.monotonic() - begin, 1),
        }
        position.epoch, position.batch, position.sums = position.epoch + 1, 0, {}
        due = position.epoch == self.recipe.num_epochs or position.epoch % self.recipe.evaluate_every_epochs == 0
        if due and not phase.dense_only:
            accuracy = evaluate_detr(
                self.detr, self._validation, self.recipe.data.validation_images, phase.size, batch_size=phase.batch_size
            )
            record |= accuracy.to_json(self._validation.classes)
        position.history.append(record)
        # Another size is another task, and the last one counts.
        first_of_size = all(line["size"] != record["size"] or "mAP" not in line for line in position.history[:-1])
        mean_precision = record.get("mAP")
        if mean_precision is not None and (first_of_size or mean_precision > position.best):
            position.best = mean_precision
            self._save(BEST)
        self._save(LAST)
        self._write_records()
        self._watch(record)

    def _step(self, batch: Batch, course: _Course) -> None:
        position, recipe = self.position, self.recipe.optimiser
        set_rate(self._optimiser, recipe, position.step, course.num_steps, course.begin)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            losses = self.learner(batch, dense_only=course.phase.dense_only)
        self._optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.learner.parameters(), recipe.clip_norm)
        total = float(losses.total.detach())
        # Before the weights are touched, so that the checkpoints on disk are all good ones.
        for what, value in (("loss", total), ("gradient", float(norm))):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the {what} became {value} at step {position.step + 1} (epoch {position.epoch + 1}, batch "
                    f"{position.batch + 1}); {self._remedy()}"
                )
        self._optimiser.step()
        if self._average is not None:
            self._average.update(self.learner.detr, position.step)
        position.step += 1
        values = {"loss": total} | {name: float(value) for name, value in losses._asdict().items() if name != "total"}
        position.sums = {name: position.sums.get(name, 0.0) + value for name, value in values.items()}

    def _remedy(self) -> str:
        path = self.out / LAST
        if not path.is_file():
            return "begin again with a lower learning rate"
        return f"the last good checkpoint is {path}: resume from it with a lower learning rate"

    def _save(self, name: str) -> None:
        tensors: dict[str, Tensor] = {f"learner.{key}": value for key, value in self.learner.state_dict().items()}
        if self._average is not None:
            tensors |= {f"average.{key}": value for key, value in self._average.detr.state_dict().items()}
        for number, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{key}": torch.as_tensor(value) for key, value in values.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        Checkpoint(position=self.position, tensors=tensors).save(self.out / name)

    def _restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.position.classes != self.position.classes:
            raise ConfigError(
                f"the checkpoint is of {len(checkpoint.position.classes)} classes and the data has "
                f"{len(self.position.classes)}; resume with the data that it was trained on"
            )
        self.position = checkpoint.position.model_copy(update={"recipe": self.recipe}, deep=True)
        try:
            self.learner.load_state_dict(checkpoint.part("learner"))
            if self._average is not None:
                self._average.detr.load_state_dict(checkpoint.part("average") or self.learner.detr.state_dict())
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in checkpoint.part("optimiser").items():
                number, _, name = key.partition(".")
                state.setdefault(int(number), {})[name] = value
            self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": state})
            for parameter, values in self._optimiser.state.items():
                if values["exp_avg"].shape != parameter.shape:
                    raise ValueError("the optimiser's values are of other parameters")
        except (RuntimeError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise ConfigError(
                f"the checkpoint does not fit the recipe ({first}); resume with the one it has inside"
            ) from error
        torch.set_rng_state(checkpoint.tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["random.cuda"], self.device)

    def _write_records(self) -> None:
        """`train.jsonl` and the curves, of every epoch there is."""
        history = self.position.history
        text = "".join(json.dumps(record) + "\n" for record in history)
        try:
            (self.out / RECORDS).write_text(text, encoding="utf-8")
            if history and importlib.util.find_spec("matplotlib") is not None:
                draw_curves(history, self.out / CURVES)
        except OSError as error:
            raise UsageError(
                f"{self.out / RECORDS} cannot be written ({error.strerror}); make room and resume"
            ) from error

    def _num_batches(self, phase: Phase) -> int:
        return max(1, len(self._training) // phase.batch_size)


def _training_pictures(recipe: Recipe) -> Pictures:
    if recipe.data.train == "scenes":
        return ScenePictures(recipe.size, recipe.seed, "train", recipe.data.images_per_epoch)
    return CocoPictures(recipe.data.train)


def _validation_pictures(recipe: Recipe, classes: tuple[str, ...]) -> Pictures:
    if recipe.data.validation == "scenes":
        seed = recipe.seed + _VALIDATION_SEED
        pictures: Pictures = ScenePictures(recipe.size, seed, "test", recipe.data.validation_images)
        if pictures.classes != classes:
            raise ConfigError("the training images have other classes than the scenes; give a folder to validate on")
        return pictures
    return CocoPictures(recipe.data.validation, classes)


def _check_precision(recipe: Recipe, device: torch.device) -> None:
    if recipe.optimiser.precision == "fp32" or device.type == "cuda":
        return
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        flags = ""
    if "bf16" not in flags:
        raise ConfigError("this CPU has no bf16 instructions, so bf16 would be slower than fp32; train with fp32")
