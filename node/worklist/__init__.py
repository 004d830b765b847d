"""Queries by DICOM: Modality Worklist, Study Root and Patient Root."""
