"""What makes the rows of a table of results: trains, exports and measures what one folder lacks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..pipeline.errors import ConfigError
from ..stages.bundle import MANIFEST, Bundle, sha256_of
from .distill import OutOfTime, attach_verb, distil, recipe_path
from .evaluate import pictures_of
from .table_plan import StudentPlan, TablePlan, Wires, distillation_students, filter_of, slimmable_students
from .train import torch_device

if TYPE_CHECKING:
    from ..bench.pictures import Pictures
    from ..distill.published import Part
    from ..distill.result_row import Row
    from ..distill.results_table import Results
    from ..distill.student_recipe import StudentRecipe

RESULT = "result.json"
SCENES = "scenes"
_CHECKPOINT_EVERY_S = 60.0
"""More often than a recipe says, so that little is lost where the time is up."""


class TableBench:
    """The experiments of one teacher in the folder `out`, each row kept there, until `until` by `time.monotonic`.

    `sources` says where "train", "validation" and "held_out" images come from, as in a recipe. Raises ConfigError for a teacher
    that not all of the experiments can learn from.
    """

    def __init__(
        self,
        teacher: str,
        out: Path,
        plan: TablePlan,
        sources: dict[str, str],
        device: str,
        threads: int,
        processes: int,
        console: Console,
        until: float | None = None,
    ) -> None:
        self._until = until
        self._teacher, self._out, self._plan, self._sources = teacher, out, plan, sources
        self._device = torch_device(device)
        self._threads, self._processes, self._console = threads, processes, console
        self._is_detr = _is_detr(teacher)
        self._pictures: dict[str, Pictures] = {}

    @property
    def num_images(self) -> int:
        """Held out, on which everything is measured."""
        return min(self._plan.num_images, len(self._held_out(self._sources["held_out"])))

    def part(self, part: Part) -> Results:
        """Everything of one part."""
        from ..distill.results_table import Results

        students = distillation_students if part == "distillation" else slimmable_students
        rows: list[Row] = []
        missing: list[str] = []
        for name, make in self._steps(part, students(self._plan, is_detr=self._is_detr)):
            try:
                for row in make():
                    rows.append(row)
            except OutOfTime as ended:
                missing.append(f"{name}: {ended}")
        order = {row.name: number for number, row in reversed(list(enumerate(rows)))}
        return Results(part, sorted(rows, key=lambda row: (order[row.name], row.width, row.seed)), missing)

    def _steps(self, part: Part, students: Sequence[StudentPlan]) -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
        yield "teacher", self._naive
        if part == "distillation":
            yield "offload", self._offload
        for student in students:
            yield student.name, partial(self._student, student)
            if part == "distillation" and student is students[0]:
                yield "neural filter", partial(self._filter, student)

    def _naive(self) -> Iterator[Row]:
        """The teacher, cut where it is without a bottleneck."""
        from ..distill.results_measure import measure_bundle
        from ..distill.results_table import TEACHER

        folder, digest = self._plain()
        wires: Wires = ("fp32", *self._plan.plain_wires)
        measure = partial(measure_bundle, folder, wires=wires, name="teacher", family=TEACHER)
        yield from self._measured("teacher", {"graphs": digest, "wires": wires}, measure)

    def _offload(self) -> Iterator[Row]:
        from ..distill.results_measure import measure_jpeg, measure_raw

        folder, digest = self._plain()
        for scale in self._plan.scales:
            for quality in self._plan.qualities:
                measure = partial(measure_jpeg, folder, quality=quality, scale=scale)
                yield from self._measured(f"offload-{quality}-{scale:g}", {"graphs": digest}, measure)
        yield from self._measured("offload-raw", {"graphs": digest}, partial(measure_raw, folder))

    def _student(self, student: StudentPlan) -> Iterator[Row]:
        from ..distill.checkpoint import BEST
        from ..distill.results_measure import measure_bundle
        from ..distill.results_table import TAKEN_ANEW
        from ..distill.slimmable_trainer import RECALIBRATED

        training = self._train(student, self._teacher)
        variants = [(BEST, student.key, student.name, student.family)]
        if student.recalibrated:
            name = f"{student.name}, statistics taken anew"
            variants.append((RECALIBRATED, f"{student.key}-recalibrated", name, TAKEN_ANEW))
        for file, key, name, family in variants:
            made_from = {"checkpoint": sha256_of(training / file), "wires": student.wires}
            folder = self._bundle(training / file, student.cuts, key)
            measure = partial(measure_bundle, folder, wires=student.wires, name=name, family=family, seed=student.seed)
            yield from self._measured(key, made_from, measure)

    def _filter(self, student: StudentPlan) -> Iterator[Row]:
        """The student's bundle with a neural filter, on images of which many are empty: with and without it."""
        from ..distill.checkpoint import BEST
        from ..distill.results_measure import measure_bundle

        training = self._train(student, self._teacher)
        planned = filter_of(student)
        filtering = self._train(planned, str(training))
        made_from = {"checkpoint": sha256_of(training / BEST), "filter": sha256_of(filtering / BEST)}
        folder = self._filtered(training / BEST, filtering)
        judged = json.loads((filtering / RESULT).read_text(encoding="utf-8"))["held_out"]
        told = f"AUC {judged['AUC']:.3f}, threshold {judged['threshold']:.3f}, recall {judged['recall']:.3f}"
        share = f"{self._plan.empty:.0%} empty"
        without = partial(
            measure_bundle,
            folder,
            wires=planned.wires,
            name=f"{student.name}, {share}",
            family="without filter, on the same images",
            note="without the filter",
        )
        behind = partial(
            measure_bundle,
            folder,
            wires=planned.wires,
            name=f"{planned.name}, {share}",
            family=planned.family,
            note=told,
            is_filtered=True,
        )
        data = f"{SCENES}:empty={self._plan.empty:g}"
        yield from self._measured("filter-off", made_from, without, data)
        yield from self._measured("filter-on", made_from, behind, data)

    def _plain(self) -> tuple[Path, str]:
        """Bundle of the teacher, and the checksum of what it was made from. A teacher that is a bundle is exported again from its
        torch weights: its own cuts and its suppression of double boxes are not those of the other rows."""
        from ..distill.checkpoint import LAST

        path = Path(self._teacher).expanduser()
        if (path / MANIFEST).is_file():
            weights = Bundle.load(path).torch_model
            assert weights is not None  # `_is_detr` has loaded them
            digest = weights.sha256
        else:
            digest = sha256_of(path / LAST if path.is_dir() else path)
        return self._bundle(path, ("projection",) if self._is_detr else ("l0",), "teacher", digest), digest

    def _bundle(self, checkpoint: Path, cuts: tuple[str, ...] | None, key: str, digest: str = "") -> Path:
        from ..distill.finished import export_checkpoint
        from ..distill.teacher import export_teacher
        from ..models.export import ExportOptions

        folder = self._out / "bundles" / f"{key}-{(digest or sha256_of(checkpoint))[:8]}"
        if not (folder / MANIFEST).is_file():
            self._check_time()
            self._console.print(f"exporting {folder.name}", highlight=False)
            export = export_teacher if (checkpoint / MANIFEST).is_file() else export_checkpoint
            export(checkpoint, folder, ExportOptions(cuts=cuts))
        return folder

    def _filtered(self, checkpoint: Path, filtering: Path) -> Path:
        from ..distill.checkpoint import BEST

        behind_stem = self._bundle(checkpoint, ("l0", "bottleneck"), "behind-stem")
        folder = behind_stem.with_name(f"{behind_stem.name}-filter-{sha256_of(filtering / BEST)[:8]}")
        if not (folder / MANIFEST).is_file():
            attach_verb(filtering, behind_stem, folder, None, self._console)
        return folder

    def _train(self, student: StudentPlan, teacher: str) -> Path:
        """From where an earlier call was, if there was one. Raises OutOfTime, ConfigError for a training of another recipe."""
        from ..distill.checkpoint import LAST, Checkpoint

        training = self._out / student.key
        recipe = self._recipe(student, teacher)
        resume = (training / LAST).is_file()
        if resume:
            before = Checkpoint.load(training).position.distillation
            if before != recipe:
                was, now = before.model_dump(), recipe.model_dump()
                first = next(name for name, value in was.items() if value != now[name])
                raise ConfigError(
                    f"{training} was trained by another recipe ({first}: {was[first]}, and now {now[first]}); give another "
                    f"--out, or the options that it was made with"
                )
        if not (training / RESULT).is_file():
            self._check_time()
            threads = self._threads or (1 if self._processes > 1 else 0)
            distil(recipe, training, resume, self._device, threads, self._processes, self._console, until=self._until)
        return training

    def _recipe(self, student: StudentPlan, teacher: str) -> StudentRecipe:
        from ..distill.student_recipe import StudentRecipe

        plan = self._plan
        changes: dict[str, Any] = {"teacher": teacher, "checkpoint_every_s": _CHECKPOINT_EVERY_S, **student.changes}
        # A folder seldom has as many empty images as a filter is trained with.
        sources = self._sources if student.task != "filter" else dict.fromkeys(self._sources, SCENES)
        changes |= {f"data.{name}": what for name, what in sources.items()}
        changes["data.held_out_images"] = plan.num_images
        if plan.images_per_epoch is not None:
            changes["data.images_per_epoch"] = plan.images_per_epoch
        if plan.validation_images is not None:
            changes["data.validation_images"] = plan.validation_images
        recipe = StudentRecipe.load(recipe_path(student.config), student.task, changes)
        # A folder has as many images in an epoch as scenes would have.
        values = recipe.model_dump()
        values["data"]["part"] = recipe.data.images_per_epoch
        recipe = StudentRecipe.check(values, student.config)
        return recipe if plan.epochs is None else recipe.with_epochs(plan.epochs)

    def _measured(
        self, key: str, made_from: Mapping[str, object], measure: Callable[..., list[Row]], data: str = ""
    ) -> list[Row]:
        """The rows that an earlier call measured under the same circumstances, else those of `measure`. Raises OutOfTime."""
        from ..distill.result_row import load_rows, save_rows

        data = data or self._sources["held_out"]
        path = self._out / "rows" / f"{key}.json"
        circumstances = {"data": data, "num_images": self._plan.num_images, **made_from}
        rows = load_rows(path, circumstances)
        if rows is None:
            self._check_time()
            with self._console.status(f"measuring {key}"):
                rows = measure(
                    pictures=self._held_out(data), num_images=self._plan.num_images, threads=self._threads or 1
                )
            save_rows(path, circumstances, rows)
            for row in rows:
                text = "-" if row.mean_precision is None else f"{row.mean_precision:.3f}"
                name = row.name if row.width == 1 else f"{row.name}, width {row.width:g}"
                self._console.print(
                    f"{name}, {row.wire}: mAP {text}, {row.bytes_per_frame:,.0f} bytes", highlight=False
                )
        return rows

    def _held_out(self, data: str) -> Pictures:
        from ..distill.kept_pictures import KeptPictures

        if data not in self._pictures:
            self._pictures[data] = KeptPictures(pictures_of(data, self._plan.num_images))
        return self._pictures[data]

    def _check_time(self) -> None:
        if self._until is not None and time.monotonic() >= self._until:
            raise OutOfTime("the time was up before it began")


def _is_detr(teacher: str) -> bool:
    """Whether it is a DETR, or else an R-CNN. Raises ConfigError where not all of the experiments can learn from it."""
    from ..distill.teacher import load_teacher
    from ..models.detector import config_of_detector
    from ..models.detr import DetrConfig
    from ..models.rcnn_config import RcnnConfig

    if not Path(teacher).expanduser().exists():
        raise ConfigError(
            f"the table is made from a checkpoint, the folder of a training, or a bundle with torch weights; {teacher} is none"
        )
    config = config_of_detector(load_teacher(teacher).model)
    if not isinstance(config, DetrConfig | RcnnConfig) or config.bottleneck:
        raise ConfigError("the table is of a DETR or an R-CNN without a bottleneck; give the training of one")
    return isinstance(config, DetrConfig)
