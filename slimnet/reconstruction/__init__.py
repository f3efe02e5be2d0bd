"""Reconstruction: weights with which a layer's output comes nearest to a target output.

Several passes run in step, call by call (:mod:`.lockstep`). The layers that mix channels
(:mod:`.consumers`) are matrix products (:mod:`.forms`), and the best weights of a product solve a
least-squares problem (:mod:`.least_squares`) over the second moments of its inputs. A layer, and
the layers before it whose outputs nothing else reads (:mod:`.segments`), are refined together
(:mod:`.refine`). What the layers around an attention make of a head is narrowed by a projection
(:mod:`.attention`).
"""
