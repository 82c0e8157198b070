"""Whom an edge asks: how its upstreams and siblings are, and which one comes first."""
