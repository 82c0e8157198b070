"""The commands of stratum 0, one module for each group; `stratum0.cli` gathers them."""
