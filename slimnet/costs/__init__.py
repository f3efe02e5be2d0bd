"""Costs: named quantities with their models, as a network stands and at any widths.

A :mod:`.quantity` is one cost, and :mod:`.quantities` has one file for each; :mod:`.cost` is what a
network costs after any cut, :mod:`.widths` the same for one quantity at the widths of
its groups, fast enough to search with.
"""
