"""Ways to train a network sparse, one file each."""
