"""Time as a cost: what a network takes at any widths, so that a budget can be one of time.

:mod:`.work` says what of a recorded pass takes time. :mod:`.table` knows how long convolutions take
at any widths, measured inside :mod:`.chains` and kept from one run to the next; :mod:`.model` makes
the model of a network of them, which is corrected where the network itself was measured.
:mod:`.measured` measures a network as it stands, and lends that model as a cost.
:mod:`.prune` is the public function for any budget; :mod:`.aiming` cuts to a time: predicted,
exported, measured, and corrected until it is met. Tables lie where :mod:`.cache` says.
"""
