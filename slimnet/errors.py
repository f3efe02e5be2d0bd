"""The refusals a user can meet.

Every one carries one sentence that says what, where and what to do; the command line prints it
and exits with code 2.
"""


class SlimnetError(Exception):
    """Base of every refusal; its text is meant for a person."""

    def __init__(self, text: str) -> None:
        super().__init__(short(text))


def short(text: str) -> str:
    """A sentence without its middle, where a file's own text or a long path stands in it."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} […] {text[-half:]}"


LONGEST = 1_900
"""Characters of a refusal; the longest of slimnet's own list two dozen names."""


class InputError(SlimnetError, ValueError):
    """What the user handed over cannot be used: a file, an option, a shape, data."""


class UnknownNameError(InputError):
    """A name that no registry holds; the text lists the known ones."""


class CaptureError(InputError):
    """The model does not run on the example input."""


class PruneError(SlimnetError):
    """The cut that was asked for is not possible; the text says which layer stands in the way."""


class CertificateError(SlimnetError):
    """The slim network does not equal the original with the removed channels zeroed."""
