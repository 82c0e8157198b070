"""Stratum 1: full, verified copies of repositories, kept current."""
