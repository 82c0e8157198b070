"""Stratocast: the core shared by publisher, replicas, edges, GeoDNS and clients."""

__version__ = "0.1.0"
