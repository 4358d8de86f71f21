"""The verb `inspect`: what each module of a detector costs, as table, JSON or figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
from rich.console import Console
from rich.table import Table

from ..pipeline.errors import ConfigError, UsageError
from ..stages.bundle import MANIFEST
from .export import parse_size, widest_bottleneck
from .inspect_widths import inspect_bundle, inspect_widths

if TYPE_CHECKING:
    from ..models.census import Census, ModuleRow

_JPEG_QUALITY = 95
_SIZE = "800x1066"


def list_verb(*, as_json: bool) -> None:
    """Every detector by name, with the places to split it."""
    _need_torch()
    from ..models.bottleneck import LAYER1_CHANNELS, PROJECTION_CHANNELS
    from ..models.efficientdet_config import CHANNELS, EFFICIENTDETS
    from ..models.names import DETECTORS, RCNNS

    in_layer1 = ", ".join(map(str, LAYER1_CHANNELS))
    at_projection = ", ".join(map(str, PROJECTION_CHANNELS))
    rows: list[dict[str, Any]] = [
        {
            "detector": name,
            "splits": ["input", "l0", "bottleneck", *(() if name in RCNNS else ("c5", "projection", "memory"))],
            "bottlenecks": {"layer1": list(LAYER1_CHANNELS)}
            | ({} if name in RCNNS else {"projection": list(PROJECTION_CHANNELS)}),
        }
        for name in (*DETECTORS, *RCNNS)
    ]
    rows += [
        {"detector": name, "splits": ["input", "p3", "bottleneck"], "bottlenecks": {"p3": list(CHANNELS[config.level])}}
        for name, config in EFFICIENTDETS.items()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(title="detectors")
    for column in ("detector", "--split"):
        table.add_column(column)
    for row in rows:
        table.add_row(str(row["detector"]), ", ".join(row["splits"]))
    Console().print(table)
    print(f"--bottleneck C puts a learned bottleneck into layer1 (published: {in_layer1}) or, with --split projection,")
    print(
        f"behind a DETR's projection ({at_projection}). Any other number of channels works as well. An EfficientDet has its"
    )
    print(
        f"behind P3 ({', '.join(map(str, CHANNELS[1]))}; D2: {', '.join(map(str, CHANNELS[2]))}), and widths: --width 0.5."
    )


def inspect_verb(
    detector: str,
    split: str,
    bottleneck: int,
    size: str,
    picture: Path | None,
    figure: Path | None,
    *,
    width: float | None = None,
    widths: bool = False,
    computation: bool = False,
    as_json: bool,
) -> None:
    """Print the census of a named detector, or with `widths` what each width costs, of a bundle too.

    Raises ConfigError for options that do not parse or do not go together; BundleError.
    """
    if detector and (Path(detector) / MANIFEST).is_file():
        if not widths:
            raise ConfigError(f"{detector} is a bundle, of which only --widths is known; name a detector for the rest")
        inspect_bundle(Path(detector), as_json=as_json)
        return
    _need_torch()
    from ..models.census import census
    from ..models.efficientdet_config import EFFICIENTDETS
    from ..models.names import cuts_for, model_config
    from ..models.slimmable import WIDTHS
    from .inspect_efficientdet import efficientdet_counts, efficientdet_of, print_widths

    if not detector:
        raise ConfigError("name a detector; 'splitrail inspect --list' has them all")
    sides = parse_size(size or _SIZE)
    if sides is None:
        raise ConfigError(f"--size dynamic has no numbers; give HxW, such as {_SIZE}")
    by_width: list[dict[str, Any]] = []
    cut: str | None
    wanted: tuple[float, ...] = ()
    if width is not None or widths or computation:
        if width is not None and not 0 < width <= 1:
            raise ConfigError(f"a width of {width} cannot be; give a fraction above 0 and up to 1, such as 0.5")
        wanted = tuple(sorted({*WIDTHS, 1.0 if width is None else width}))
    if detector in EFFICIENTDETS:
        asked = 1.0 if widths and width is None else width
        chosen = efficientdet_of(detector, split, bottleneck, sides if size else None, asked, computation=computation)
        if widths:
            inspect_widths(detector, chosen[0], chosen[0].size, as_json=as_json)
            return
        bottleneck, cut = chosen[0].bottleneck, None if chosen[1] == "input" else chosen[1]
        counted, by_width = efficientdet_counts(chosen[0], 1.0 if width is None else width)
    else:
        if wanted and not bottleneck:
            bottleneck, split = widest_bottleneck(detector, split)
        config = model_config(detector, bottleneck=bottleneck, split=split, widths=wanted, computation=computation)
        if widths:
            inspect_widths(detector, config, sides, as_json=as_json)
            return
        counted = census(config, sides, 1.0 if width is None else width)
        cuts = cuts_for(config, split)
        cut = "bottleneck" if "bottleneck" in cuts else next(iter(cuts), None)
    jpeg = None if picture is None else _jpeg_bytes(picture, counted.size)
    result = _as_json(detector, bottleneck, counted, cut, jpeg)
    if width is not None or by_width:
        result |= {"width": 1.0 if width is None else width}
    if by_width:
        result |= {"by_width": by_width}
    if figure is not None:
        from ..bench.figures.census import draw_census
        from ..bench.figures.style import to_png

        try:
            figure.write_bytes(to_png(draw_census(result)))
        except OSError as error:
            raise ConfigError(f"{figure} cannot be written ({error.strerror}); give another --figure") from error
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _print(result, Console())
        if by_width:
            print_widths(by_width, Console())


def _as_json(
    detector: str, bottleneck: int, counted: Census, cut: str | None, jpeg: dict[str, int] | None
) -> dict[str, Any]:
    modules = [_module(counted, row) for row in counted.rows]
    total_parameters, total_macs = counted.up_to(counted.rows[-1])
    head_parameters, head_macs = (0, 0) if cut is None else counted.up_to(counted.row_of(cut))
    input_bytes = 3 * counted.size[0] * counted.size[1]
    wire = {"uint8": input_bytes} if cut is None else _module(counted, counted.row_of(cut))["wire_bytes"]
    result: dict[str, Any] = {
        "detector": detector,
        "bottleneck": bottleneck or None,
        "size": list(counted.size),
        "input_elements": input_bytes,
        "num_parameters": total_parameters,
        "num_macs": total_macs,
        "modules": modules,
        "split": {
            "cut": cut or "input",
            "head": {"num_parameters": head_parameters, "num_macs": head_macs},
            "tail": {"num_parameters": total_parameters - head_parameters, "num_macs": total_macs - head_macs},
            "wire_bytes": wire,
            "relative_elements": 1.0 if cut is None else counted.relative(counted.row_of(cut)),
        },
    }
    if jpeg is not None:
        result["jpeg_bytes"] = jpeg
        result["split"]["relative_to_jpeg"] = {
            name: {wire_type: num_bytes / size for wire_type, num_bytes in wire.items()} for name, size in jpeg.items()
        }
    return result


def _module(counted: Census, row: ModuleRow) -> dict[str, Any]:
    from ..models.census import WIRE_BYTES

    parameters, macs = counted.up_to(row)
    return {
        "name": row.name,
        "cut": row.cut,
        "shape": list(row.shape),
        "elements": row.num_elements,
        "relative_elements": counted.relative(row),
        "num_parameters": row.num_parameters,
        "cumulative_parameters": parameters,
        "num_macs": row.num_macs,
        "cumulative_macs": macs,
        "wire_bytes": {wire: row.num_elements * size for wire, size in WIRE_BYTES.items()},
    }


def _print(result: dict[str, Any], console: Console) -> None:
    height, width = result["size"]
    with_bottleneck = f", bottleneck of {result['bottleneck']} channels" if result["bottleneck"] else ""
    table = Table(title=f"{result['detector']}{with_bottleneck}, {height}x{width}", caption=_CONVENTIONS)
    for column in ("module", "cut", "output", "of input", "parameters", "up to here", "GMAC", "up to here"):
        table.add_column(column, justify="left" if column in ("module", "cut", "output") else "right")
    for column in ("fp32", "fp16", "uint8"):
        table.add_column(f"{column} kB", justify="right")
    for row in result["modules"]:
        table.add_row(
            row["name"],
            row["cut"] or "",
            "x".join(map(str, row["shape"])),
            f"{row['relative_elements']:.4f}",
            f"{row['num_parameters']:,}",
            f"{row['cumulative_parameters']:,}",
            f"{row['num_macs'] / 1e9:.3f}",
            f"{row['cumulative_macs'] / 1e9:.2f}",
            *(f"{row['wire_bytes'][wire] / 1e3:,.1f}" for wire in ("fp32", "fp16", "uint8")),
        )
    console.print(table)
    split = result["split"]
    for name in ("head", "tail"):
        part = split[name]
        console.print(
            f"{name} of a split at {split['cut']}: {part['num_parameters']:,} parameters, "
            f"{part['num_macs'] / 1e9:.2f} GMAC",
            highlight=False,
        )
    sizes = ", ".join(f"{wire} {num_bytes / 1e3:,.1f} kB" for wire, num_bytes in split["wire_bytes"].items())
    console.print(
        f"a frame on the wire: {sizes}; {split['relative_elements']:.5f} of the input's elements", highlight=False
    )
    for name, size in result.get("jpeg_bytes", {}).items():
        ratios = ", ".join(f"{wire} {ratio:.2f}" for wire, ratio in split["relative_to_jpeg"][name].items())
        console.print(f"of a JPEG of the {name} image ({size / 1e3:,.1f} kB): {ratios}", highlight=False)


_CONVENTIONS = (
    "output: of the module, for one image. of input: what would travel behind it, needed branches included, in parts of "
    "3 x H x W. Parameters without frozen normalisation. A MAC is one multiplication with its addition, in convolutions, "
    "linear layers and attention; an R-CNN's heads see 1000 proposals and 100 detections."
)


def _jpeg_bytes(picture: Path, size: tuple[int, int]) -> dict[str, int]:
    """Of the image as it is, and scaled to `size`, at quality 95."""
    image = cv2.imread(str(picture))
    if image is None:
        raise ConfigError(f"{picture} cannot be read as an image; give a JPEG or PNG with --image")
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return {
        name: len(cv2.imencode(".jpg", pixels, options)[1])
        for name, pixels in (("native", image), ("resized", resized))
    }


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError("inspect needs torch; add it with: pip install 'splitrail[torch]'") from error
