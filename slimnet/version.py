"""The version of slimnet, in one place, and those of what it stands on."""

from importlib.metadata import version

__version__ = "0.1.0"


def used() -> str:
    """What runs here: slimnet, torch and torchvision."""
    return ", ".join(
        (
            f"slimnet {__version__}",
            *(f"{name} {version(name)}" for name in ("torch", "torchvision")),
        )
    )
