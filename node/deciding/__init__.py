"""Is the series whole, which model, and who goes first."""
