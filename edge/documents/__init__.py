"""Manifests and whitelists, and what they say about the objects below them."""
