"""Training sparse: a network of the same shapes that ``slimnet prune`` can cut deep.

:mod:`.method` says what a method is and holds the registry, :mod:`.methods` has one file for each.
:mod:`.sparseness` counts what is zero or small, :mod:`.leaks` moves what dead channels add into the
layers that read them, :mod:`.training` runs one method with one schedule and survives a kill.
"""

from slimnet.sparsity.method import SPARSIFIERS, Sparsifier
from slimnet.sparsity.training import Recipe, Sparse, sparsify

__all__ = [
    "SPARSIFIERS",
    "Recipe",
    "Sparse",
    "Sparsifier",
    "sparsify",
]
