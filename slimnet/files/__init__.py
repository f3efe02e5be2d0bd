"""Files: what is opened and written.

:mod:`.access` opens whatever a user has, saves, loads and proves again. A slim network is a
:mod:`.slim_file` of any kind: ``slim.pt`` (:mod:`.artifact`) or ``.safetensors``
(:mod:`.tensors_file`).
"""
