"""Measuring: what planning has to know about a network.

Its MACs, parameters and bytes (:mod:`.cost`), at any widths (:mod:`.widths`); which weights read a
group's channels (:mod:`.readers`), the loss's gradients (:mod:`.gradients`), what the channels say
on images (:mod:`.activations`), which groups are alike (:mod:`.alike`), and all that together
(:mod:`.analysis`, :mod:`.gathered`).
"""
