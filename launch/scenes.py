"""The verb `scenes`: generated pictures as a COCO-format folder."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ..pipeline.errors import ConfigError
from ..stages.scene_folder import write_coco_folder
from ..stages.scenery.tones import Split
from .export import parse_size


def scenes_verb(out: Path, num_images: int, size: str, seed: int, split: str, workers: int, console: Console) -> None:
    """Write the folder, with a progress bar. Raises ConfigError for options that do not parse."""
    height_width = parse_size(size)
    if height_width is None:
        raise ConfigError("--size must be HxW, such as 256x320")
    splits: dict[str, Split] = {"train": "train", "test": "test"}
    if split not in splits:
        raise ConfigError(f"--split {split!r} is neither train nor test")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("scenes", total=num_images)
        write_coco_folder(
            out,
            num_images,
            height_width,
            seed,
            splits[split],
            lambda done, total: bar.update(task, completed=done, total=total),
            workers=workers,
        )
    console.print(f"{out}: {num_images} images", highlight=False)
