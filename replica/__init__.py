"""Replicas: full copies of repositories, verified while they are made and never shown half."""
