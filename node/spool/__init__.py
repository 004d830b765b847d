"""The spool: where what came in is safe until it is filed."""
