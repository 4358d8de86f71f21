"""What a bundle makes of one picture in many settings at once: what they have in common is computed once.

    preprocess --- backbone --- compressor --- decode uint8 --- decompressor --- transformer --- postprocess     1 uint8
       |              |            '---------- decode fp16 --- decompressor --- ...                              1 fp16
       |              '------- compressor-0.25 --- ...                                                           0.25 ...
       '-- JPEG --- backbone --- ...                                                                             offload

Each branch is gone to its end before the next one begins, so that an engine may use its outputs again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..pipeline.message import layout
from ..pipeline.packet import Array, Kind, Packet, TensorSpec
from ..pipeline.stage import Stage
from ..stages.bundle import Bundle
from ..stages.codec import Decode, Encode
from ..stages.detections import Detections
from ..stages.engines.registry import open_engine
from ..stages.jpeg import JpegDecode, JpegEncode
from ..stages.network import Network, form_of, outputs_of
from ..stages.neural_filter import open_filter
from ..stages.nms_choice import NmsIou, with_nms
from ..stages.postprocess import open_postprocess
from ..stages.preprocess import Preprocess
from ..stages.setting import Setting


@dataclass(frozen=True, slots=True)
class Computing:
    """How graphs are run."""

    engine: str = "onnxruntime"
    precision: str = "fp32"
    threads: int = 1
    device: str = "cpu"


class Outcome(NamedTuple):
    """What became of a picture in one setting."""

    detections: Detections
    """All of them, whatever their scores."""
    num_bytes: int
    """Payload of what travels, bytes: features, a JPEG, or of a local setting the detections that are reported."""
    is_empty: bool
    """The neural filter ended it."""


@dataclass
class _Node:
    """A stage that the frames of some settings come through."""

    stage: Stage
    is_sent: bool = False
    """What it leaves in the packet travels."""
    children: dict[Hashable, _Node] = field(default_factory=dict)
    settings: list[int] = field(default_factory=list)
    """Those that end here."""


_Step = tuple[Hashable, Callable[[], Stage], bool]
"""What tells the stage from others, how it is made, and whether what it leaves travels."""


class SettingTree:
    """All stages of `settings` of the bundle in `folder`, opened once each.

    With `is_filtered` its neural filter ends frames, at `filter_threshold` or its own. Raises ConfigError: no filter, or a width
    that the bundle has not; EngineError.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        settings: Sequence[Setting],
        computing: Computing,
        *,
        is_filtered: bool = False,
        filter_threshold: float | None = None,
        nms_iou: NmsIou | None = None,
    ) -> None:
        self._folder = folder
        self._bundle = bundle
        self._settings = tuple(settings)
        self._computing = computing
        self._filter_threshold = filter_threshold
        self._postprocess = with_nms(bundle.postprocess, nms_iou)
        self._stages: dict[Hashable, Stage] = {}
        self._root = _Node(Preprocess(bundle.preprocess))
        try:
            for number, setting in enumerate(self._settings):
                node = self._root
                for key, make, is_sent in self._steps(setting, is_filtered=is_filtered):
                    if key not in node.children:
                        if key not in self._stages:
                            self._stages[key] = make()
                        node.children[key] = _Node(self._stages[key], is_sent)
                    node = node.children[key]
                node.settings.append(number)
        except BaseException:
            self.close()
            raise

    def outcomes(self, image: Array) -> list[Outcome]:
        """For each setting, in their order. `image` is uint8 [H, W, 3] BGR."""
        packet = Packet(0, 0, 0, (image.shape[0], image.shape[1]))
        packet.tensors = {"image": image}
        found: dict[int, Outcome] = {}
        self._descend(self._root, packet, 0, found)
        return [found[number] for number in range(len(self._settings))]

    def close(self) -> None:
        """Close every engine."""
        for stage in self._stages.values():
            stage.close()

    def _descend(self, node: _Node, packet: Packet, num_bytes: int, found: dict[int, Outcome]) -> None:
        node.stage.process(packet)
        if packet.kind is Kind.EMPTY:
            for number in _settings_below(node):
                found[number] = Outcome(Detections.none(), 0, True)
            return
        if node.is_sent:
            num_bytes = _payload_bytes(packet.tensors)
        for number in node.settings:
            detections = Detections.from_tensors(packet.tensors)
            if self._settings[number].way == "local":
                reported = detections.above(self._bundle.postprocess.score_threshold)
                num_bytes = _payload_bytes(reported.to_tensors())
            found[number] = Outcome(detections, num_bytes, False)
        for child in node.children.values():
            branch = copy.copy(packet)
            branch.tensors = dict(packet.tensors)
            self._descend(child, branch, num_bytes, found)

    def _steps(self, setting: Setting, *, is_filtered: bool) -> Iterator[_Step]:
        """Behind the pre-processing, in the order of a frame's way."""
        view = self._bundle.at_width(setting.width)
        if setting.way == "offload":
            quality = 0 if setting.jpeg_quality is None else setting.jpeg_quality
            yield ("jpeg", quality), lambda: JpegEncode(quality, "pixels"), True
            yield "no jpeg", lambda: JpegDecode("pixels", view.preprocess.pixel_dtype), False
        index = 0
        for name in view.chain(is_filtered=is_filtered):
            if view.filter is not None and name == view.filter.graph.name:
                yield "filter", lambda: self._filter(view), False
            else:
                yield from self._graph(view, index, setting)
                index += 1
        yield "postprocess", lambda: open_postprocess(self._postprocess, 0.0), False

    def _graph(self, view: Bundle, index: int, setting: Setting) -> Iterator[_Step]:
        """A graph, and between head and tail of a split the way over the wire."""
        graph = view.stages[index]
        crosses = setting.way == "split" and bool(graph.wire_tensors) and index + 1 == view.num_head_stages
        form = form_of(graph, setting.wire) if crosses else None
        outputs = outputs_of(graph, form)
        by = self._computing

        def network() -> Network:
            loaded = open_engine(by.engine, by.precision, self._folder, view, index, outputs, by.threads, by.device)
            return Network(loaded, graph, form)

        yield (graph.sha256, outputs, crosses), network, crosses and form == setting.wire
        if crosses and form is not None:
            if form != setting.wire:
                yield (
                    ("encode", setting.wire),
                    lambda: Encode(graph.wire_tensors, setting.wire, source=form),
                    True,
                )
            yield ("decode", setting.wire), lambda: Decode(graph.wire_tensors, setting.wire), False

    def _filter(self, view: Bundle) -> Stage:
        """The torch engine makes its model from weights, which a filter has none of."""
        by = self._computing
        engine, device = (by.engine, by.device) if by.engine != "torch" else ("onnxruntime", "cpu")
        return open_filter(self._folder, view, engine, by.threads, device, self._filter_threshold)


def _settings_below(node: _Node) -> Iterator[int]:
    yield from node.settings
    for child in node.children.values():
        yield from _settings_below(child)


def _payload_bytes(tensors: dict[str, Array]) -> int:
    specs = [TensorSpec(name, array.dtype.name, array.shape) for name, array in tensors.items()]
    return layout(specs)[1]
