"""A few images of a job with their results drawn, of which its report shows what the results look like."""

import base64
import hashlib
import io
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from PIL import Image

from retinue_client._classification import Classification
from retinue_client._detections import Detections
from retinue_client._draw import score_text
from retinue_client._errors import ImageError
from retinue_client._plain import named, plain
from retinue_client._score.disk import Disk
from retinue_client._score.picture import picture_of
from retinue_client._score.rows import Result
from retinue_client._urls import without_secrets

# While a job goes on; in the end the report has what is in it.
SAMPLE = "_sample.json"
RANDOM_IMAGES = 12
UNSURE_IMAGES = 6
# Of larger files there is no picture.
_MOST_ENCODED_BYTES = 32 << 20
# What is kept of images that are not drawn yet, before they are.
_MOST_WAITING_BYTES = 64 << 20
_MOST_NAMED = 3
_MOST_CHARACTERS = 512


@dataclass(slots=True)
class Shown:
    """An image of the sample.

    Attributes:
        key: The row that it is of.
        draw: What the dice say of it: the least are taken.
        score: How sure the model is of its best answer, in [0, 1]; None where it says no score.
        says: The result, in words.
        picture: The result drawn, a WebP file; empty before it is drawn, and where the image is too large or cannot
            be read.
        size: The picture's width and height in pixels.
        waiting: The image and its result, until it is drawn.
    """

    key: str
    draw: int
    score: float | None
    says: str
    picture: bytes = b""
    size: tuple[int, int] = (0, 0)
    waiting: tuple[bytes, Result] | None = field(default=None, repr=False)


class Sample:
    """Chooses images at random, and those that the model is least sure of, whatever the number of all.

    Whether an image is chosen depends on its key, its score and the seed alone, so that a job which was interrupted and
    goes on shows the same ones as one that was not, and a row that is made twice is shown once. Only images that are
    still chosen when `draw_waiting` is called are drawn.

    Source: the k least of random draws are a uniform sample; E. Cohen and H. Kaplan, Summarizing data using bottom-k
    sketches, PODC 2007.

    Args:
        seed: Of the dice.

    Attributes:
        random: The images chosen at random.
        unsure: Those of the lowest scores, lowest first.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._drawing = threading.Lock()
        self._unsaved = True
        self.random: list[Shown] = []
        self.unsure: list[Shown] = []

    def offer(self, key: str, image: bytes, outcome: Result | ImageError) -> bool:
        """Considers an image and its result; takes microseconds.

        Returns:
            Whether so much waits to be drawn that `draw_waiting` should be called.
        """
        if isinstance(outcome, ImageError):
            return False
        draw = _draw_of(self._seed, key)
        score = _score_of(outcome)
        at_random = len(self.random) < RANDOM_IMAGES or draw < self.random[-1].draw
        unsure = score is not None and (
            len(self.unsure) < UNSURE_IMAGES or (score, draw) < _doubt(self.unsure[-1])
        )
        if at_random or unsure:
            shown = Shown(plain(without_secrets(key)[:_MOST_CHARACTERS]), draw, score, _words_of(outcome))
            if len(image) <= _MOST_ENCODED_BYTES:
                shown.waiting = (image, outcome)
            self._take(shown, at_random=at_random, unsure=unsure)
            # After it was taken, for a thread may be saving just now.
            self._unsaved = True
            return self._waiting_bytes() > _MOST_WAITING_BYTES
        return False

    def draw_waiting(self) -> None:
        """Draws what has been chosen since, in some tens of milliseconds an image; not for the thread of `offer`."""
        with self._drawing:
            for shown in self._all():
                if shown.waiting is not None:
                    shown.picture, shown.size = picture_of(*shown.waiting)
                    shown.waiting = None

    def save(self, disk: Disk) -> None:
        """Draws what waits and writes all down, where anything has changed since.

        To be called before the journal is told of a part, so that the sample never lacks one of its images.

        Raises:
            OSError: It cannot be written.
        """
        if not self._unsaved:
            return
        self._unsaved = False
        disk.write(SAMPLE, json.dumps(self.state()).encode())

    @classmethod
    def load(cls, disk: Disk) -> Self:
        """What `save` has written; an empty sample where there is no such file or it is damaged.

        Raises:
            OSError: There is one that cannot be read.
        """
        try:
            return cls.from_state(json.loads((disk.root / SAMPLE).read_bytes()))
        except (FileNotFoundError, ValueError):
            return cls()

    def state(self) -> dict[str, Any]:
        """Draws what waits, and gives all of it as values that JSON knows."""
        self.draw_waiting()
        return {
            "seed": self._seed,
            "random": [_state_of(shown) for shown in self.random],
            "unsure": [_state_of(shown) for shown in self.unsure],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The sample that gave this state.

        Raises:
            ValueError: None did.
        """
        try:
            made = cls(int(state["seed"]))
            made.random = [_shown(one) for one in state["random"][:RANDOM_IMAGES]]
            made.unsure = [_shown(one) for one in state["unsure"][:UNSURE_IMAGES]]
        except (KeyError, TypeError) as exc:
            raise ValueError(f"this is no sample: {exc!r}") from exc
        return made

    def merge(self, other: "Sample") -> None:
        """Takes in the sample of other images of the same job, as workers have that score parts of it.

        Raises:
            ValueError: Its dice are others.
        """
        if other._seed != self._seed:
            raise ValueError(f"a sample of seed {other._seed} cannot be merged with one of {self._seed}")
        for shown in other.random:
            self._take(shown, at_random=True, unsure=False)
        for shown in other.unsure:
            self._take(shown, at_random=False, unsure=True)
        self._unsaved = True

    def _take(self, shown: Shown, *, at_random: bool, unsure: bool) -> None:
        if at_random:
            self.random = _least(self.random, shown, RANDOM_IMAGES, by_doubt=False)
        if unsure:
            self.unsure = _least(self.unsure, shown, UNSURE_IMAGES, by_doubt=True)

    def _waiting_bytes(self) -> int:
        waiting = (shown.waiting for shown in self._all())
        return sum(len(one[0]) for one in waiting if one is not None)

    def _all(self) -> Iterable[Shown]:
        """Each once, for one image may be in both lists."""
        return {id(shown): shown for shown in (*self.random, *self.unsure)}.values()


def _least(kept: list[Shown], shown: Shown, most: int, *, by_doubt: bool) -> list[Shown]:
    others = [one for one in kept if one.draw != shown.draw]
    ordered = sorted([*others, shown], key=_doubt if by_doubt else lambda one: (0.0, one.draw))
    return ordered[:most]


def _doubt(shown: Shown) -> tuple[float, int]:
    return (1.0 if shown.score is None else shown.score, shown.draw)


def _draw_of(seed: int, key: str) -> int:
    text = f"{seed}\0{key}".encode("utf-8", "surrogatepass")
    # As many bits as JSON's readers keep of a number.
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 11


def _score_of(result: Result) -> float | None:
    if isinstance(result, Classification):
        return result.classes[0].score if result.classes else None
    if isinstance(result, Detections):
        return float(result.scores[0]) if len(result) else None
    return None


def _words_of(result: Result) -> str:
    if isinstance(result, Classification):
        said = [f"{named(one.label)} {score_text(one.score)}" for one in result.classes[:_MOST_NAMED]]
        return ", ".join(said) or "no class"
    if isinstance(result, Detections):
        said = [f"{named(one.label)} {score_text(one.score)}" for one in result[:_MOST_NAMED]]
        more = f" and {len(result) - len(said):,} more" if len(result) > len(said) else ""
        return ", ".join(said) + more or "nothing found"
    pixels = max(1, result.width * result.height)
    objects = [area for area in result.areas if not area.is_background]
    said = [f"{named(area.label)} {score_text(area.area_pixels / pixels)}" for area in objects[:_MOST_NAMED]]
    return ", ".join(said) or "nothing found"


def _state_of(shown: Shown) -> dict[str, Any]:
    picture = base64.b64encode(shown.picture).decode("ascii")
    return {
        "key": shown.key,
        "draw": shown.draw,
        "score": shown.score,
        "says": shown.says,
        "picture": picture,
    }


def _shown(state: dict[str, Any]) -> Shown:
    """Raises ValueError, KeyError or TypeError where it is no state."""
    score = None if state["score"] is None else float(state["score"])
    picture = base64.b64decode(state["picture"], validate=True)
    made = Shown(str(state["key"]), int(state["draw"]), score, str(state["says"]), picture)
    if picture:
        try:
            with Image.open(io.BytesIO(picture), formats=["WEBP"]) as image:
                made.size = image.size
        except OSError as exc:
            raise ValueError("this is no picture") from exc
    return made
