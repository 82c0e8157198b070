"""Connections of clients: accepted, read, answered, limited."""
