"""Tasks that a command line names, beside the classification of images: a file each.

A :mod:`.kind` is how one is written and read, e.g. ``task:segmentation:ROOT``; ordered and drawn
:mod:`.batches` are what they have in common. There are :mod:`.regression`, :mod:`.segmentation` and
:mod:`.detection`; pictures are read as :mod:`.pictures` are.
"""
