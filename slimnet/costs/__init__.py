"""Costs: what a network takes, as it stands (:mod:`.cost`) and at any widths (:mod:`.widths`)."""
