"""Reconstruction: weights with which a layer gives what it gave, from what it reads.

Networks walk in step, call by call (:mod:`.lockstep`). The layers that mix channels
(:mod:`.consumers`) are matrix products (:mod:`.forms`), and a product's best weights are least
squares (:mod:`.least_squares`) over second moments. A layer and those that speak to it alone
(:mod:`.segments`) are refined together (:mod:`.refine`).
"""
