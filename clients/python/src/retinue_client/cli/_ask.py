"""A question about the images of a command line: asked in parts, answered as the parts come back."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from retinue_client import Classification, ImageError, RetinueError, Segmentation
from retinue_client.cli._console import console_for
from retinue_client.cli._exit import EXIT_ALL_ANSWERED, EXIT_SOME_FAILED, fail
from retinue_client.cli._files import read_image, save_picture
from retinue_client.cli._show import Result, failure_line, json_line, print_json, result_block

# Few enough that the first answers are soon on the screen.
_IMAGES_AT_ONCE = 16

Question = Callable[[list[bytes]], Sequence[Result | ImageError]]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the answers go.

    Attributes:
        as_json: One JSON object a line instead of tables.
        drawings: For each image, where its painted result goes, or None.
        class_maps: For each image, where its class map goes, or None.
        heatmaps: For each image, where the image with its heatmap goes, or None.
    """

    as_json: bool
    drawings: list[Path | None]
    class_maps: list[Path | None]
    heatmaps: list[Path | None]


def ask_about(images: list[str], question: Question, outputs: Outputs) -> None:
    """Asks about the images, prints each outcome, and ends the command with its exit code.

    With JSON, standard output has one line for each image whatever happens, and nothing else.

    Raises:
        typer.Exit: With 0 where every image was answered and every picture of an answer written, 1 where some were
            not, 2 where the call as a whole failed.
    """
    failed = 0
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        names = images[start : start + _IMAGES_AT_ONCE]
        try:
            contents, outcomes = _answer(names, question)
        except RetinueError as error:
            if outputs.as_json:
                for name in images[start:]:
                    print_json(json_line(name, error))
            fail(error.message)
        for offset, (name, outcome) in enumerate(zip(names, outcomes, strict=True)):
            _report(name, outcome, outputs.as_json)
            if isinstance(outcome, ImageError):
                failed += 1
                continue
            if not _save(contents[offset], outcome, outputs, start + offset):
                failed += 1
    raise typer.Exit(EXIT_SOME_FAILED if failed else EXIT_ALL_ANSWERED)


def _answer(names: list[str], question: Question) -> tuple[list[bytes], list[Result | ImageError]]:
    """The bytes of each file (empty for one that cannot be read) and what became of it."""
    contents = [read_image(name) for name in names]
    readable = [content for content in contents if isinstance(content, bytes)]
    answers = iter(question(readable) if readable else [])
    outcomes = [content if isinstance(content, ImageError) else next(answers) for content in contents]
    return [content if isinstance(content, bytes) else b"" for content in contents], outcomes


def _report(name: str, outcome: Result | ImageError, as_json: bool) -> None:
    if as_json:
        print_json(json_line(name, outcome))
    elif isinstance(outcome, ImageError):
        console_for(sys.stderr).print(failure_line(name, outcome), soft_wrap=True)
    else:
        console_for(sys.stdout).print(result_block(name, outcome))


def _save(content: bytes, result: Result, outputs: Outputs, place: int) -> bool:
    saved = True
    if drawing := outputs.drawings[place]:
        saved &= save_picture(lambda: result.draw(content), drawing, "--draw")
    if (class_map := outputs.class_maps[place]) and isinstance(result, Segmentation):
        saved &= save_picture(result.to_image, class_map, "--mask-out")
    if (heatmap := outputs.heatmaps[place]) and isinstance(result, Classification):
        saved &= save_picture(lambda: result.draw_heatmap(content), heatmap, "--heatmap")
    return saved
