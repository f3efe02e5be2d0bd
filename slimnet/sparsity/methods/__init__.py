"""Ways to train a network sparse, one file each."""

from slimnet.registry import import_all

import_all(__name__, list(__path__))
