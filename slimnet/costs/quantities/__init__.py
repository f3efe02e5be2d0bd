"""One file per cost."""
