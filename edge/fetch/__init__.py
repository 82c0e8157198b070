"""Fetches: one for many waiting clients, verified while it arrives."""
