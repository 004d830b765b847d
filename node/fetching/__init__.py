"""Asking peers as SCU: find, move, get, commit; fetching old studies, and analysing them again."""
