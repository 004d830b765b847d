"""DICOM objects made from findings."""
