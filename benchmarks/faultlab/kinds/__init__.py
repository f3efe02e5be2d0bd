"""One file per kind of fault; every family in them registers itself."""
