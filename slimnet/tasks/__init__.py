"""Tasks that a command line names: a file for each kind.

:mod:`.data` reads what a user names. Labelled images are a task of :mod:`.classification`; their
:mod:`.sources` give arrays and folders, and :mod:`.augment` shifts and mirrors them; some are
:mod:`.unlabelled`. Another task is a :mod:`.kind`, written ``task:segmentation:ROOT``:
:mod:`.regression`, :mod:`.segmentation` and :mod:`.detection`, which read :mod:`.pictures`. All of
them give :mod:`.batches`.
"""
