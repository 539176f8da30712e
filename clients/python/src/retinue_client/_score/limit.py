"""How many images may fail before a job ends."""

from dataclasses import dataclass

from retinue_client._score.errors import ErrorLimitError

# A share of fewer images says nothing.
_LEAST_IMAGES = 100


@dataclass(frozen=True, slots=True)
class ErrorLimit:
    """The most images that may fail.

    Attributes:
        count: So many; None where there is no such limit.
        share: Such a share of all images so far, in [0, 1], once there are a hundred of them; None likewise.
    """

    count: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> "ErrorLimit":
        """Reads "100" or "1%".

        Raises:
            ValueError: It is neither.
        """
        number = text.removesuffix("%")
        limit = cls(count=int(text)) if number == text else cls(share=float(number) / 100)
        if not ((limit.count or 0) >= 0 and 0 <= (limit.share or 0) <= 1):
            raise ValueError(f"{text!r} is no limit")
        return limit

    def check(self, failed: int, images: int) -> None:
        """Ends the job where too many have failed.

        Args:
            failed: How many have, in all runs of the job.
            images: Of how many.

        Raises:
            ErrorLimitError: They are too many.
        """
        too_many = self.count is not None and failed > self.count
        if self.share is not None and images >= _LEAST_IMAGES:
            too_many = too_many or failed > self.share * images
        if too_many:
            raise ErrorLimitError(
                f"{failed:,} of {images:,} images have failed, more than --max-errors allows."
            )
