"""Programs: networks as plain data, run without the class that they came from.

A :mod:`.program` is ATen :mod:`.calls`, those that :mod:`.permitted` knows to be safe and in the
memory that :mod:`.allowance` grants. :mod:`.exported` makes one of a network by ``torch.export``;
:mod:`.pt2` reads one from its file, an :mod:`.archive` of :mod:`.nodes`, where nothing has
:mod:`.effects` on what it is given.
"""
