"""Intake: from the spool into store and ledger."""
