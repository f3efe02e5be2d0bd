"""Networks: where they come from.

A checkpoint (:mod:`.checkpoint`, read without running it: :mod:`.payload`, with what is not made
only named: :mod:`.foreign`), which of its entries are the weights (:mod:`.weights`, their names:
:mod:`.names`), the architecture that they belong to (:mod:`.arch`, its arguments:
:mod:`.literals`), and the libraries, built-in networks and user's files (:mod:`.sources`,
:mod:`.userfile`) that build one. :mod:`.stated` says what a file may ask of them.
"""
