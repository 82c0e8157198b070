"""How objects travel: the fetchers."""
