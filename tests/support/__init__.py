"""What the tests share: instances made by code, settings, real peers, waiting."""
