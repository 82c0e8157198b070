"""The command `cdn`: the composition root, which everything below it knows nothing of."""
