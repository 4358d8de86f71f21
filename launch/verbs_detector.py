"""The verbs about detectors themselves: `export` and `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from .options import Json
from .verbs import app

_Bottleneck = Annotated[
    int,
    typer.Option(
        help="Channels of a learned bottleneck: 3, 6, 9, 12, 15 in layer1; 8 to 64 at --split projection; 10 to 48 of an "
        "EfficientDet."
    ),
]


@app.command()
def export(
    detector: Annotated[str, typer.Argument(help='A name of "splitrail inspect --list", or the folder of a training.')],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    weights: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="FILE or FOLDER (original, Hugging Face or torchvision layout), or hub; random by default."),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            help="HxW for a fixed size (letterboxed), or dynamic; 480x640, or the training's or an EfficientDet's own."
        ),
    ] = "",
    cut: Annotated[
        str,
        typer.Option(
            "--cut",
            "--split",
            help="l0, p3, bottleneck, c5, projection, memory, several joined by commas, or none (input); by default the "
            "bottleneck where there is one, else a DETR's projection, an R-CNN's l0, an EfficientDet's p3.",
        ),
    ] = "",
    bottleneck: _Bottleneck = 0,
    opset: Annotated[int, typer.Option(help="ONNX opset; 13 for TensorRT 8.")] = 17,
    seed: Annotated[int, typer.Option(help="For random weights.")] = 0,
    queries: Annotated[Optional[int], typer.Option(help="Number of queries.")] = None,  # noqa: UP045
    encoder_layers: Annotated[Optional[int], typer.Option(help="Number of encoder layers.")] = None,  # noqa: UP045
    decoder_layers: Annotated[Optional[int], typer.Option(help="Number of decoder layers.")] = None,  # noqa: UP045
    classes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Number of classes: without no-object for a DETR, with the background for an R-CNN."),
    ] = None,
    width: Annotated[Optional[int], typer.Option(help="Channels of the stem, 64 by default.")] = None,  # noqa: UP045
    torch_engine: Annotated[bool, typer.Option("--torch", help="Add the weights for the torch engine.")] = False,
    nms_iou: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Of a DETR's boxes of one class that overlap more, the worse goes; as published none does."),
    ] = None,
    widths: Annotated[
        str,
        typer.Option(
            metavar="A,B,1",
            help="Make the bottleneck slimmable: one set of weights for these fractions of its channels, in one bundle.",
        ),
    ] = "",
    computation: Annotated[
        bool,
        typer.Option("--computation", help="The widths slim all of the encoder, not only what is next to the wire."),
    ] = False,
    golden_frames: Annotated[
        int, typer.Option(min=1, help="Frames kept with their outputs, by which engines are judged.")
    ] = 2,
) -> None:
    """Make a bundle of ONNX graphs from a detector in torch.

    Example: `splitrail export faster-rcnn-resnet50 --weights hub --size 800x1066 --out bundles/rcnn`
    """
    from .export import export_verb

    overrides = {
        "num_queries": queries,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "num_classes": classes,
        "width": width,
    }
    console = Console(stderr=True)
    export_verb(
        detector,
        out,
        weights,
        size,
        cut,
        bottleneck,
        opset,
        seed,
        torch_engine,
        nms_iou,
        overrides,
        console,
        widths,
        computation,
        golden_frames,
    )


@app.command()
def inspect(
    detector: Annotated[str, typer.Argument(help="A name of --list; with --widths a bundle, too.")] = "",
    split: Annotated[
        str, typer.Option(help="Sum up head and tail for a cut: input, l0, p3, bottleneck, c5, projection, memory.")
    ] = "",
    bottleneck: _Bottleneck = 0,
    size: Annotated[
        str, typer.Option(help="HxW of the image behind the resize, pixels; default 800x1066, an EfficientDet's own.")
    ] = "",
    width: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Fraction of the bottleneck's channels, such as 0.5, of the widest bottleneck unless given."),
    ] = None,
    widths: Annotated[
        bool, typer.Option("--widths", help="Head, tail and wire at every width, of a detector or a bundle.")
    ] = False,
    computation: Annotated[
        bool, typer.Option("--computation", help="The width slims the encoder too, not only what is next to the wire.")
    ] = False,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--image", help="Compare the bytes with a JPEG of this image, as it is and resized."),
    ] = None,
    figure: Annotated[Optional[Path], typer.Option(help="Draw sizes, parameters and MACs into this PNG.")] = None,  # noqa: UP045
    names: Annotated[bool, typer.Option("--list", help="Name every detector with the places to split it.")] = False,
    json: Json = False,
) -> None:
    """What each module of a detector holds and costs, and what a cut behind it would send. Needs no weights.

    Example: `splitrail inspect faster-rcnn-resnet50 --bottleneck 3 --split bottleneck`
    """
    from .inspect import inspect_verb, list_verb

    if names:
        list_verb(as_json=json)
    else:
        inspect_verb(
            detector,
            split,
            bottleneck,
            size,
            picture,
            figure,
            width=width,
            widths=widths,
            computation=computation,
            as_json=json,
        )
