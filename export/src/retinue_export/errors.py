"""What can go wrong on purpose.

ExportError           bad input: exit code 2
└── ParityError       the graph does not compute what the module does: exit code 1

Messages are for the person at the command line: what happened and what to do about it.
"""


class ExportError(Exception):
    """The command cannot be carried out as given."""

    exit_code = 2


class ParityError(ExportError):
    """A graph differs from its PyTorch reference by more than its tolerance."""

    exit_code = 1
