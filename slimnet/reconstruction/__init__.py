"""Reconstruction: weights that make a layer say what it said, from what it reads.

Calibration images go through networks in step (:mod:`.lockstep`, :mod:`.batches`). The layers that
mix channels (:mod:`.consumers`) are matrix products (:mod:`.forms`), and a product's best weights
are least squares (:mod:`.least_squares`) over second moments (:mod:`.readings`). A layer and those
that speak to it alone (:mod:`.segments`) are refined together (:mod:`.refine`). Whole networks are
compared by what they answer, whatever its structure (:mod:`.answers`).
"""
