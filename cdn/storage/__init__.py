"""Where objects lie: the stores."""
