"""The doors: receiving, deciding and returning. Speaks DIMSE; never needs torch."""
