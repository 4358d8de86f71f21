"""What the writers leave in the output folder."""

from __future__ import annotations

import csv
import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from splitrail.pipeline.errors import SinkError
from splitrail.stages.detections import Detections
from splitrail.stages.writers import open_writers as open_writers_module
from splitrail.stages.writers import show
from splitrail.stages.writers.av_video import AvVideoWriter
from splitrail.stages.writers.coco import CocoWriter
from splitrail.stages.writers.csv import CsvWriter
from splitrail.stages.writers.frames import FramesWriter
from splitrail.stages.writers.jsonl import JsonlWriter
from splitrail.stages.writers.line_file import LineFile
from splitrail.stages.writers.open_writers import open_writers
from splitrail.stages.writers.opencv_video import OpenCvVideoWriter
from splitrail.stages.writers.result import Result, Writer
from splitrail.stages.writers.video_time import VideoTime

CLASSES = ["car", "Fußgänger, rot"]
FOUND = Detections(
    np.array([[10, 20, 40.5, 60], [0, 0, 5, 5]], np.float32),
    np.array([0.9, 0.5], np.float32),
    np.array([1, 0], np.int32),
)


def done(frame: int, detections: Detections = FOUND, name: str = "", picture: np.ndarray | None = None) -> Result:
    return Result(frame, "done", 5 + frame, 40_000_000 * frame, "", detections, name, (48, 64), picture)


def coloured(frame: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), 40 + 5 * frame, np.uint8)


def test_jsonl_has_a_line_per_frame(tmp_path: Path) -> None:
    writer = JsonlWriter(tmp_path, CLASSES)
    writer.write(done(0))
    writer.write(Result(1, "empty", 6, 7))
    writer.write(Result(2, "failed", 8, 9, "not finite"))
    writer.write(Result(3, "dropped"))
    writer.flush()
    early = (tmp_path / writer.path).read_text()
    writer.close(hurried=False)
    text = (tmp_path / "detections.jsonl").read_text(encoding="utf-8")
    assert early == text
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0] == {
        "frame": 0,
        "capture_ns": 5,
        "pts_ns": 0,
        "fate": "done",
        "reason": "",
        "detections": [
            {"box": [10.0, 20.0, 40.5, 60.0], "score": 0.9, "label": "Fußgänger, rot"},
            {"box": [0.0, 0.0, 5.0, 5.0], "score": 0.5, "label": "car"},
        ],
    }
    assert [(line["frame"], line["fate"], line["reason"]) for line in lines[1:]] == [
        (1, "empty", ""),
        (2, "failed", "not finite"),
        (3, "dropped", ""),
    ]
    assert all(line["detections"] == [] for line in lines[1:])
    assert lines[3]["capture_ns"] is None


def test_csv_has_a_row_per_detection(tmp_path: Path) -> None:
    writer = CsvWriter(tmp_path, CLASSES)
    writer.write(done(3))
    writer.write(Result(4, "empty", 6, 7))
    writer.close(hurried=False)
    with (tmp_path / "detections.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert rows[0] == {
        "frame": "3",
        "pts_ns": "120000000",
        "label": "Fußgänger, rot",
        "score": "0.9",
        "x_min": "10.0",
        "y_min": "20.0",
        "x_max": "40.5",
        "y_max": "60.0",
    }


def test_coco_results_by_file_name_number(tmp_path: Path) -> None:
    writer = CocoWriter(tmp_path, CLASSES)
    writer.write(done(0, name="000000000139.jpg"))
    writer.write(Result(1, "failed", 1, 1, "x", name="000000000285.jpg"))
    writer.write(done(2, Detections.none(), name="000000000632.jpg"))
    writer.write(done(7))
    assert not (tmp_path / "coco_results.json").exists()
    writer.close(hurried=False)
    results = json.loads((tmp_path / "coco_results.json").read_text())
    assert [entry["image_id"] for entry in results] == [139, 139, 7, 7]
    assert results[0] == {"image_id": 139, "category_id": 1, "bbox": [10.0, 20.0, 30.5, 40.0], "score": 0.9}
    assert [path.name for path in tmp_path.iterdir()] == ["coco_results.json"]


def test_coco_results_without_any_detection_are_an_empty_list(tmp_path: Path) -> None:
    CocoWriter(tmp_path, CLASSES).close(hurried=True)
    assert json.loads((tmp_path / "coco_results.json").read_text()) == []


def test_coco_results_by_annotation_file_are_what_pycocotools_evaluates(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    box = {"iscrowd": 0, "image_id": 77, "area": 1220.0}
    annotations = {
        "images": [{"id": 77, "file_name": "val/first.jpg", "height": 480, "width": 640}],
        "categories": [{"id": 5, "name": CLASSES[0]}, {"id": 9, "name": CLASSES[1]}],
        "annotations": [
            {"id": 1, "category_id": 9, "bbox": [10, 20, 30.5, 40], **box},
            {"id": 2, "category_id": 5, "bbox": [0, 0, 5, 5], **box, "area": 25.0},
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(annotations))
    writer = CocoWriter(tmp_path, [*CLASSES, "N/A"], path)
    writer.write(done(0, name="first.jpg"))
    with pytest.raises(SinkError, match=r"no image named 'other\.jpg'"):
        writer.write(done(1, name="other.jpg"))
    writer.close(hurried=False)
    truth = COCO(str(path))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "coco_results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "not a COCO annotation file"),
        ("{", "not a COCO annotation file"),
        (json.dumps({"images": [], "categories": []}), "no category 'car'"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(SinkError, match=says):
        CocoWriter(tmp_path, CLASSES, path)
    with pytest.raises(SinkError, match="cannot be read"):
        CocoWriter(tmp_path, CLASSES, tmp_path / "none.json")


def test_frames_are_numbered_pictures(tmp_path: Path) -> None:
    writer = FramesWriter(tmp_path)
    for frame in (0, 12):
        writer.write(done(frame, picture=coloured(frame)))
    writer.close(hurried=False)
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == ["000000.jpg", "000012.jpg"]
    image = cv2.imread(str(tmp_path / "frames" / "000012.jpg"))
    assert abs(int(image[20, 20, 0]) - 100) <= 2


VideoOpener = Callable[[Path, float], Writer]
video_writers = pytest.mark.parametrize("opened", [AvVideoWriter, OpenCvVideoWriter], ids=["pyav", "opencv"])


def decoded(path: Path) -> tuple[list[float], list[float], float, str]:
    """Brightness and time in s of every frame, the frame rate, the codec."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(frame.to_ndarray(format="gray").mean(), frame.time) for frame in container.decode(stream)]
        return [f[0] for f in frames], [f[1] for f in frames], float(stream.average_rate), stream.codec_context.name


@video_writers
@pytest.mark.parametrize("fps", [25.0, 12.5, 179 / 6, 30000 / 1001])
def test_the_video_has_the_frames_and_the_rate_of_the_source(tmp_path: Path, opened: VideoOpener, fps: float) -> None:
    writer = opened(tmp_path, fps)
    for frame in range(30):
        result = Result(frame, "done", 0, round(frame * 1e9 / fps), picture=coloured(frame))
        writer.write(result)
        writer.flush()
    writer.close(hurried=False)
    assert [path.name for path in tmp_path.iterdir()] == [writer.path]
    values, times, rate, codec = decoded(tmp_path / writer.path)
    assert len(values) == 30
    assert rate == pytest.approx(fps, rel=1e-4)
    assert codec == ("h264" if writer.path.endswith("mp4") else "mpeg4")
    assert times == pytest.approx([frame / fps for frame in range(30)], abs=1.1e-3)
    assert [round((value - values[0]) / 5) for value in values] == pytest.approx(list(range(30)), abs=1)


@video_writers
def test_frames_left_out_leave_the_others_in_time(tmp_path: Path, opened: VideoOpener) -> None:
    writer = opened(tmp_path, 25.0)
    for frame in (0, 1, 2, 10, 11):
        writer.write(done(frame, picture=coloured(frame)))
    writer.close(hurried=False)
    values, times, _, _ = decoded(tmp_path / writer.path)
    at = {round(time * 25): value for time, value in zip(times, values, strict=True)}
    assert max(at) == 11
    assert at[10] - at[2] == pytest.approx(40, abs=8)
    assert cv2.VideoCapture(str(tmp_path / writer.path)).isOpened()


@video_writers
def test_times_that_stand_still_or_are_unknown_do_no_harm(tmp_path: Path, opened: VideoOpener) -> None:
    writer = opened(tmp_path, 25.0)
    for pts_ns in (0, 0, 10, None, 5):
        writer.write(Result(0, "done", 0, pts_ns, picture=coloured(0)))
    writer.close(hurried=False)
    assert [round(time * 25) for time in decoded(tmp_path / writer.path)[1]] == [0, 1, 2, 3, 4]


@video_writers
@pytest.mark.parametrize("size", [(48, 64), (47, 63), (33, 64)])
def test_odd_sizes_and_changes_of_size(tmp_path: Path, opened: VideoOpener, size: tuple[int, int]) -> None:
    writer = opened(tmp_path, 25.0)
    for frame in range(4):
        writer.write(done(frame, picture=coloured(frame, size if frame < 2 else (100, 30))))
    writer.close(hurried=False)
    capture = cv2.VideoCapture(str(tmp_path / writer.path))
    shapes = []
    while (answer := capture.read())[0]:
        shapes.append(answer[1].shape[:2])
    assert len(shapes) == 4
    assert len(set(shapes)) == 1
    assert all(0 <= shown - given <= 1 for shown, given in zip(shapes[0], size, strict=True))


@video_writers
def test_colours_are_kept(tmp_path: Path, opened: VideoOpener) -> None:
    writer = opened(tmp_path, 25.0)
    blue_and_red = np.zeros((48, 64, 3), np.uint8)
    blue_and_red[:, :32, 0] = blue_and_red[:, 32:, 2] = 220
    writer.write(done(0, picture=blue_and_red))
    writer.close(hurried=False)
    _, image = cv2.VideoCapture(str(tmp_path / writer.path)).read()
    assert np.abs(image[:, 4:28].astype(int) - (220, 0, 0)).mean() < 12
    assert np.abs(image[:, 36:60].astype(int) - (0, 0, 220)).mean() < 12


def test_the_grid_of_a_video_takes_any_rate() -> None:
    assert VideoTime(30000 / 1001).rate == Fraction(30000, 1001)
    assert VideoTime(12.5).rate == Fraction(25, 2)
    assert VideoTime(1e-9).rate == Fraction(1, 1001)


def test_a_hurried_close_leaves_the_matroska_file(tmp_path: Path) -> None:
    writer = AvVideoWriter(tmp_path, 25.0)
    for frame in range(5):
        writer.write(done(frame, picture=coloured(frame)))
    writer.close(hurried=True)
    assert writer.path == "detections.mkv"
    assert len(decoded(tmp_path / "detections.mkv")[0]) == 5


@video_writers
def test_a_run_without_pictures_leaves_no_video(tmp_path: Path, opened: VideoOpener) -> None:
    opened(tmp_path, 25.0).close(hurried=False)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from splitrail.stages.writers.open_writers import open_writers
from splitrail.stages.writers.result import Result
from splitrail.stages.writers.writer_thread import WriterThread

out = Path(sys.argv[1])
records = WriterThread(open_writers(["jsonl"], out, [], fps=25.0), name="records", capacity=1000)
pictures = WriterThread(open_writers(["video"], out, [], fps=25.0), name="pictures", capacity=8)
for frame in range(100):
    result = Result(frame, "done", 1, 40_000_000 * frame, picture=np.full((48, 64, 3), frame, np.uint8))
    records.put(result, block=True)
    pictures.put(result, block=True)
time.sleep(1.5)
print("written", flush=True)
time.sleep(60)
"""


def test_a_killed_run_leaves_a_video_that_plays_and_whole_lines(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "written\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    lines = (tmp_path / "detections.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(100))
    assert len(decoded(tmp_path / "detections.mkv")[0]) >= 85
    assert not (tmp_path / "detections.mp4").exists()


def full_disk(out: Path, name: str) -> None:
    """Make what is written to `name` fail as on a full disk."""
    (out / name).symlink_to("/dev/full")


def test_a_full_disk_is_named_for_lines(tmp_path: Path) -> None:
    full_disk(tmp_path, "detections.jsonl")
    writer = JsonlWriter(tmp_path, CLASSES)
    writer.write(done(0))
    with pytest.raises(SinkError, match=r"detections\.jsonl cannot be written: No space left on device; make room"):
        writer.flush()
    writer.close(hurried=True)


def test_a_full_disk_is_named_for_the_video(tmp_path: Path) -> None:
    full_disk(tmp_path, "detections.mkv")
    writer = AvVideoWriter(tmp_path, 25.0)
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)

    def write() -> None:
        for frame in range(300):
            writer.write(done(frame, picture=noise))
        writer.close(hurried=False)

    with pytest.raises(SinkError, match=r"detections\.mkv cannot be written: .*No space left on device"):
        write()


def test_a_copy_that_does_not_fit_leaves_the_matroska_file(tmp_path: Path) -> None:
    full_disk(tmp_path, "detections.mp4.partial")
    writer = AvVideoWriter(tmp_path, 25.0)
    for frame in range(5):
        writer.write(done(frame, picture=coloured(frame)))
    with pytest.raises(SinkError, match=r"detections\.mkv is complete but could not be copied"):
        writer.close(hurried=False)
    assert len(decoded(tmp_path / "detections.mkv")[0]) == 5
    assert writer.path == "detections.mkv"


def test_opencv_video_says_when_the_disk_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from splitrail.stages.writers import opencv_video

    monkeypatch.setattr(opencv_video, "_MIN_FREE_BYTES", 1 << 62)
    with pytest.raises(SinkError, match="16 MiB"):
        OpenCvVideoWriter(tmp_path, 25.0).flush()


def test_a_line_that_was_written_in_part_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = LineFile(tmp_path / "a")
    lines.append("first")
    lines.flush()

    class Filling:
        def __init__(self, file: object) -> None:
            self._file = file
            self._num_calls = 0

        def write(self, data: bytes) -> int:
            self._num_calls += 1
            if self._num_calls > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self._file.write(data[:10]))  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

    monkeypatch.setattr(lines, "_file", Filling(lines._file))
    lines.append("second")
    lines.append("third")
    with pytest.raises(SinkError, match="No space left"):
        lines.flush()
    assert (tmp_path / "a").read_text() == "first\nsecond\n"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"file/out cannot be written: Not a directory"):
        open_writers(["jsonl"], tmp_path / "file" / "out", CLASSES, fps=25.0)


def test_writers_are_opened_by_name_once(tmp_path: Path) -> None:
    writers = open_writers(["jsonl", "csv", "coco", "frames", "video", "csv"], tmp_path / "a" / "b", CLASSES, fps=25.0)
    assert [writer.path for writer in writers] == [
        "detections.jsonl",
        "detections.csv",
        "coco_results.json",
        "frames",
        "detections.mp4",
    ]
    for writer in writers:
        writer.close(hurried=False)
    with pytest.raises(SinkError, match="no output 'gif'; choose among jsonl"):
        open_writers(["gif"], tmp_path, CLASSES, fps=25.0)


def test_without_pyav_opencv_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_writers_module, "find_spec", lambda name: None)
    (writer,) = open_writers(["video"], tmp_path, CLASSES, fps=25.0)
    assert isinstance(writer, OpenCvVideoWriter)
    writer.close(hurried=False)


def test_show_without_a_display_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match="DISPLAY is not set"):
        open_writers(["jsonl", "show"], tmp_path, CLASSES, fps=25.0)
    # A display that does not answer ends the toolkit's process, not this one.
    monkeypatch.setenv("DISPLAY", ":987")
    with pytest.raises(SinkError, match=r"leave --show out|opencv-python-headless"):
        show.ShowWriter()


def test_the_window_shows_pictures_and_its_keys_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, quits = [], []
    keys = iter([-1, ord("q")])
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(show, "_PROBE", "pass")
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys))
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append(None))
    writer = show.ShowWriter(lambda: quits.append(True))
    writer.write(done(0, picture=coloured(0)))
    assert quits == []
    writer.write(done(1, picture=coloured(1)))
    writer.close(hurried=False)
    assert quits == [True]
    assert len(shown) == 3
    assert shown[-1] is None
