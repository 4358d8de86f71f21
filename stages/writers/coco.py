"""`coco_results.json`: detections as COCO's evaluation reads them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ...pipeline.errors import SinkError
from .line_file import LineFile, cannot_write
from .result import Result


class CocoWriter:
    """COCO results: a list of `image_id`, `category_id`, `bbox` (x, y, width, height in source pixels), `score`, and where the
    detector makes them `segmentation` (compressed run lengths) and `keypoints`.

    With `annotations`, a COCO annotation file, the image id is that of the frame's file name, and the category id that of the
    class name. Without, the image id is the number that ends the file's stem (000000000139.jpg is 139), else the frame's
    number, and the category id is the label, which for bundles with COCO's 91 classes is the same. The file appears
    when it is complete; until then it grows as `coco_results.json.partial`.

    Raises SinkError for annotations that cannot be read, or that lack an image or a class.
    """

    draws = False

    def __init__(self, out: Path, classes: Sequence[str], annotations: Path | None = None) -> None:
        self.path = "coco_results.json"
        self._target = out / self.path
        self._partial = out / f"{self.path}.partial"
        self._annotations = annotations
        self._image_ids: dict[str, int] = {}
        self._category_ids = list(range(len(classes)))
        if annotations is not None:
            self._image_ids, by_name = _read_annotations(annotations)
            unknown = [name for name in classes if name not in by_name and name != "N/A"]
            if unknown:
                raise SinkError(
                    f"{annotations} has no category {unknown[0]!r}; give the annotations of the bundle's classes"
                )
            self._category_ids = [by_name.get(name, label) for label, name in enumerate(classes)]
        self._lines = LineFile(self._partial)
        self._separator = "["

    def write(self, result: Result) -> None:
        if result.detections is None or not len(result.detections):
            return
        image_id = self._image_id(result)
        found = result.detections
        columns = (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
        for index, (box, score, label) in enumerate(zip(*columns, strict=True)):
            left, top, right, bottom = box
            entry: dict[str, object] = {
                "image_id": image_id,
                "category_id": self._category_ids[label] if label < len(self._category_ids) else label,
                "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
                "score": round(score, 6),
            }
            if found.masks is not None:
                entry["segmentation"] = found.masks.to_json(index)
            if found.keypoints is not None:
                # The third number is a visibility, which the evaluation does not read.
                points = found.keypoints[index, :, :2].tolist()
                entry["keypoints"] = [value for x, y in points for value in (round(x, 2), round(y, 2), 1)]
            self._lines.append(self._separator + json.dumps(entry, separators=(",", ":")))
            self._separator = ","

    def flush(self) -> None:
        self._lines.flush()

    def close(self, hurried: bool) -> None:
        self._lines.append("[]" if self._separator == "[" else "]")
        self._lines.close()
        try:
            os.replace(self._partial, self._target)
        except OSError as error:
            raise cannot_write(self._target, error) from error

    def _image_id(self, result: Result) -> int:
        if self._annotations is not None:
            try:
                return self._image_ids[result.name]
            except KeyError:
                raise SinkError(
                    f"{self._annotations} has no image named {result.name!r} (frame {result.frame}); "
                    f"give the annotations of this source"
                ) from None
        number = re.search(r"(\d+)$", Path(result.name).stem)
        return int(number[1]) if number else result.frame


def _read_annotations(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Image ids by file name, and category ids by class name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {Path(image["file_name"]).name: int(image["id"]) for image in content["images"]}
        categories = {str(category["name"]): int(category["id"]) for category in content["categories"]}
    except OSError as error:
        raise SinkError(f"the annotations {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SinkError(f"{path} is not a COCO annotation file ({type(error).__name__}: {error})") from error
    return images, categories
