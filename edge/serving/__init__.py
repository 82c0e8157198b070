"""What becomes of a request: what is stored is found, the rest is ordered, and the answer is given."""
