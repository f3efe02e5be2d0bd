"""Statistics: what is measured of a network on calibration images.

The images run through the network in :mod:`.batches` that fit into memory. :mod:`.gather` collects
what a criterion needs as one value (:mod:`.statistics`): the loss's :mod:`.gradients`, the mean
:mod:`.activations` of channels where a layer reads them (:mod:`.readers`), the second
:mod:`.moments` of layers' inputs. Whole networks are compared by their :mod:`.outputs`.
"""
