"""Networks: where they come from.

:mod:`.checkpoint` makes a model of a file. :mod:`.payload` reads the file without running code from
it; objects that are not made are :mod:`.foreign`. :mod:`.weights` finds the weights among its
entries, :mod:`.names` compares their names with a network's. :mod:`.arch` is the architecture that
they belong to, :mod:`.literals` its arguments on a command line. Libraries, built-in networks and
the user's files build it (:mod:`.sources`, :mod:`.userfile`); :mod:`.stated` is what a file may ask
of them.
"""
