"""The options of every command that exports: in which number format, and what that may cost."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from retinue_export import image_folders, labelled, speed
from retinue_export.assembly import Candidate
from retinue_export.errors import ExportError
from retinue_export.precision import DEFAULT_MAX_DROP, Precision, Wanted
from retinue_server.runtime.providers import Provider

PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="In what the network computes: fp32, also with weights stored in 16 bits, fp16, int8, or the fastest.",
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        help="For int8 and auto: a folder of images like those that the model will see, a hundred or so. "
        "Wants --labelled or --max-drop too.",
    ),
]
LabelledOption = Annotated[
    Path | None,
    typer.Option(
        "--labelled",
        help="A folder of labelled images, to measure quality on: for a classifier one folder a class.",
    ),
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        help="By how many points quality may fall; a bundle that lost more is not written. Without --labelled: how "
        "many of 100 images may get another answer than in FP32.",
        show_default=f"{DEFAULT_MAX_DROP:g}",
    ),
]
ProviderOption = Annotated[
    Literal["cpu", "cuda"] | None,
    typer.Option("--provider", help="For auto: where the model is to be fast.", show_default="cpu"),
]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command was given of these options."""

    precision: Precision = Precision.FP16_WEIGHTS
    calibration: Path | None = None
    labelled: Path | None = None
    max_drop: float | None = None
    provider: Literal["cpu", "cuda"] | None = None

    def check(self) -> None:
        """Refuses what does not fit together, before anything takes time.

        Raises:
            ExportError: see there; or there is no such provider here.
        """
        quantises = self.precision in (Precision.INT8, Precision.AUTO)
        on_cpu = self.provider in (None, "cpu")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise ExportError(f"--max-drop {self.max_drop:g} must be 0 to 100.")
        if self.provider is not None and self.precision is not Precision.AUTO:
            raise ExportError("--provider says where --precision auto measures speed, and has no other use.")
        if self.calibration is not None and not quantises:
            raise ExportError(f"--calibration has no meaning with --precision {self.precision}.")
        if self.calibration is None and (self.precision is Precision.INT8 or (quantises and on_cpu)):
            raise ExportError(
                f"--precision {self.precision} needs --calibration FOLDER: images like those that the model will see."
            )
        if self.calibration is not None and self.labelled is None and self.max_drop is None:
            raise ExportError(
                "INT8 changes answers: give --labelled FOLDER to measure what it costs, or --max-drop to say in how "
                "many of 100 images an answer other than FP32's will do."
            )
        if self.max_drop is not None and self.labelled is None and self.calibration is None:
            raise ExportError(
                f"--max-drop has no meaning with --precision {self.precision} unless --labelled FOLDER says how good "
                "answers are."
            )
        self._provider()

    def read(self, candidate: Candidate) -> tuple[Candidate, Wanted]:
        """Reads the folders.

        Returns:
            The candidate, with what measures it on the labelled images, and what it is to become.

        Raises:
            ExportError: a folder cannot be used.
        """
        spec = candidate.packaging.spec
        if self.labelled is not None:
            candidate = replace(candidate, quality=labelled.read(self.labelled, candidate.manifest, spec))
        wanted = Wanted(
            precision=self.precision,
            calibration=image_folders.calibration(self.calibration, spec) if self.calibration else None,
            max_drop=DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop,
            provider=self._provider(),
        )
        return candidate, wanted

    def _provider(self) -> Provider | None:
        return speed.choose(self.provider or "cpu") if self.precision is Precision.AUTO else None
