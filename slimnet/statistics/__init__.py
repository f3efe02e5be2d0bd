"""Statistics: what calibration images tell of a network.

They go through it in :mod:`.batches` that fit into memory. :mod:`.gather` collects what a criterion
needs as :mod:`.statistics`: the loss's :mod:`.gradients`, what channels hold (:mod:`.activations`,
read by the :mod:`.readers`), the second :mod:`.moments` of what layers read. Whole networks are
compared by their :mod:`.outputs`, whatever the structure of these.
"""
