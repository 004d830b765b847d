"""The workshop: from a job id to findings and DICOM objects. Never speaks DIMSE."""
