"""What a model answered, made into lesions: connected, measured, placed."""
