"""The door: what comes in over DICOM, on the disk before it is acknowledged."""
