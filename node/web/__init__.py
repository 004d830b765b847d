"""What speaks HTTP: the pages, the interface for programs, DICOMweb."""
