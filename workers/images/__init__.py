"""DICOM instances made into arrays that know where they came from."""
