"""Networks: where they come from.

A checkpoint (:mod:`.checkpoint`, read without running it: :mod:`.payload`), the architecture that
it belongs to (:mod:`.arch`), and the libraries, built-in networks and user's files
(:mod:`.sources`, :mod:`.userfile`) that build one. :mod:`.stated` says what a file may ask of them.
"""
