"""Why a job cannot begin or go on, other than what the server says.

ScoreError
├── SourceError        the source cannot be read at all, or does not say what it has
├── DestinationError   the results' folder cannot be written into as it is
│   └── JournalError   its journal is damaged, or what it says is there is not
└── ErrorLimitError    more images have failed than the user puts up with
"""


class ScoreError(Exception):
    """Base of the errors of a job; the message says why and what to do."""


class SourceError(ScoreError):
    """A source that cannot be read at all, or does not say what it has."""


class DestinationError(ScoreError):
    """A folder that cannot be written into as it is."""


class JournalError(DestinationError):
    """A journal that is damaged, or says that something is there which is not."""


class ErrorLimitError(ScoreError):
    """More images have failed than the user puts up with."""
