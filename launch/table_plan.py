"""What a table of results consists of: which students are trained and what is measured of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..distill.student_recipe import Task
    from ..stages.bundle import WireType

Wires = tuple["WireType", ...]


@dataclass(frozen=True)
class TablePlan:
    """How much of everything."""

    bottlenecks: tuple[int, ...] = (3, 6, 12)
    """Channels in layer1, each by HND and by GHND."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the first of them; the others have the first seed."""
    projections: tuple[int, ...] = (8, 32)
    """Channels behind the projection."""
    wires: Wires = ("fp16", "uint8", "uint6", "uint4", "uint8+zstd", "uint6+zstd", "uint4+zstd")
    """Of everything that has a bottleneck."""
    plain_wires: Wires = ("fp16", "uint8")
    """Of what has none, cut after the projection, an R-CNN after its stem."""
    qualities: tuple[int, ...] = (10, 30, 50, 75, 90)
    scales: tuple[float, ...] = (1.0, 0.75, 0.5)
    slimmable: tuple[int, tuple[float, ...]] = (32, (0.125, 0.25, 0.5, 1.0))
    """Channels behind a DETR's projection and their widths; each width is trained alone, too."""
    slimmable_in_layer1: tuple[int, tuple[float, ...]] = (12, (0.25, 0.5, 0.75, 1.0))
    """The same of an R-CNN."""
    slimmable_wires: Wires = ("uint8", "uint6", "uint4")
    recalibrate_images: int = 800
    num_images: int = 300
    """Held out, on which everything is measured."""
    empty: float = 0.46
    """Share of empty images where the filter is judged, as in the published data."""
    epochs: int | None = None
    """Of each phase; None: the recipe's."""
    images_per_epoch: int | None = None
    validation_images: int | None = None


QUICK = TablePlan(
    bottlenecks=(3,),
    seeds=(0,),
    projections=(8,),
    wires=("fp16", "uint8", "uint4", "uint4+zstd"),
    qualities=(30, 75),
    scales=(1.0, 0.5),
    slimmable=(32, (0.125, 0.5, 1.0)),
    slimmable_in_layer1=(12, (0.25, 0.5, 1.0)),
    slimmable_wires=("uint8", "uint4"),
    recalibrate_images=160,
    num_images=100,
    epochs=1,
    images_per_epoch=800,
    validation_images=40,
)
"""Minutes on two cores: it shows that all of it runs and what it looks like, not what it can reach."""


@dataclass(frozen=True)
class StudentPlan:
    """A student: how it is trained, and what is measured of it."""

    key: str
    """Of its folder and the files of its rows."""
    task: Task
    config: str
    """Preset of its recipe."""
    name: str
    family: str
    changes: Mapping[str, Any]
    """Values of the recipe that hold instead, by dotted key."""
    wires: Wires
    cuts: tuple[str, ...] | None = None
    """None: those that suit it."""
    recalibrated: bool = False
    """Of a slimmable one: measure it with the statistics taken anew as well."""

    @property
    def seed(self) -> int:
        """Of its training."""
        return int(self.changes.get("seed", 0))


def distillation_students(plan: TablePlan, *, is_detr: bool) -> tuple[StudentPlan, ...]:
    """In the order in which they are trained: what the others can be compared with first, further seeds last."""
    first, *others = plan.bottlenecks
    by_channels = [_in_layer1(plan, task, first, plan.seeds[0]) for task in ("ghnd", "hnd")]
    if is_detr:
        by_channels += [_behind_projection(plan, plan.projections[0]), *_without_bottleneck(plan)]
    by_channels += [_in_layer1(plan, task, channels, plan.seeds[0]) for channels in others for task in ("ghnd", "hnd")]
    if is_detr:
        by_channels += [_behind_projection(plan, channels) for channels in plan.projections[1:]]
    return (*by_channels, *(_in_layer1(plan, task, first, seed) for seed in plan.seeds[1:] for task in ("ghnd", "hnd")))


def slimmable_students(plan: TablePlan, *, is_detr: bool) -> tuple[StudentPlan, ...]:
    """One set of weights, the widest and the narrowest trained alone, the set whose encoder follows too, the other widths.

    All have the recipe of the slimmable one: the same images, steps and rates.
    """
    from ..distill.results_table import COMPUTATION, ONE_BY_ONE, SLIMMABLE
    from ..models.slimmable import active_channels

    channels, widths = plan.slimmable if is_detr else plan.slimmable_in_layer1
    at = "projection" if is_detr else "layer1"
    alone = [active_channels(channels, width) for width in widths]
    common: dict[str, Any] = {"student.bottleneck_at": at}
    student = StudentPlan(
        key=f"slimmable-{channels}",
        task="slimmable",
        config="short-slimmable",
        name=f"slimmable, {channels} channels",
        family=SLIMMABLE,
        changes=common
        | {
            "student.bottleneck": channels,
            "student.widths": widths,
            "student.num_widths": min(3, len(widths)),
            "student.recalibrate_images": plan.recalibrate_images,
        },
        wires=plan.slimmable_wires,
        recalibrated=True,
    )
    fixed = [
        replace(
            student,
            key=f"alone-{number}",
            task="ghnd",
            name=f"alone, {number} channels",
            family=ONE_BY_ONE,
            changes=common | {"student.bottleneck": number},
            cuts=("bottleneck",),
            recalibrated=False,
        )
        for number in alone
    ]
    computation = replace(
        student,
        key=f"slimmable-{channels}-computation",
        name=f"{student.name}, encoder too",
        family=COMPUTATION,
        changes={**student.changes, "student.configurable": "computation", "student.recalibrate_images": 0},
        recalibrated=False,
    )
    return (student, fixed[-1], fixed[0], computation, *fixed[1:-1])


def filter_of(student: StudentPlan) -> StudentPlan:
    """The neural filter on the stem of `student`, which is its teacher."""
    return StudentPlan(
        "filter", "filter", "short-filter", f"{student.name}, neural filter", "with filter", {}, ("uint8",)
    )


def _in_layer1(plan: TablePlan, task: Task, channels: int, seed: int) -> StudentPlan:
    return StudentPlan(
        key=f"{task}-{channels}-seed{seed}",
        task=task,
        config="short-bottleneck",
        name=f"{task.upper()}, {channels} channels",
        family=task.upper(),
        changes={"student.bottleneck": channels, "seed": seed},
        wires=plan.wires,
        cuts=("bottleneck",),
    )


def _behind_projection(plan: TablePlan, channels: int) -> StudentPlan:
    return StudentPlan(
        key=f"projection-{channels}",
        task="ghnd",
        config="short-bottleneck",
        name=f"projection, {channels} channels",
        family="bottleneck at the projection",
        changes={"student.bottleneck": channels, "student.bottleneck_at": "projection"},
        wires=plan.wires,
        cuts=("bottleneck",),
    )


def _without_bottleneck(plan: TablePlan) -> list[StudentPlan]:
    kinds: tuple[tuple[Task, str, str], ...] = (
        ("sskd", "short-backbone", "SSKD backbone"),
        ("encoder", "short-encoder", "fewer encoder layers"),
    )
    return [
        StudentPlan(task, task, config, name, name, {}, plan.plain_wires, ("projection",))
        for task, config, name in kinds
    ]
