"""Catalogs: the directory metadata of one subtree each, as SQLite files (spec §5)."""
