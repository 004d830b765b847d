"""Unified Procedure Step: Push, Pull, Watch, Event and Query (PS3.4 Annex CC)."""
