"""DICOM connections, coming and going: contexts, sockets, messages, the SCU."""
