"""Who we are, as our objects and our network messages say it."""

from __future__ import annotations

from core import __version__
from core.identifiers import derived_uid

MANUFACTURER = "Sentinode"
MODEL_NAME = "Sentinode"
SOFTWARE_VERSION = __version__
IMPLEMENTATION_CLASS_UID = derived_uid("implementation class")
# PS3.7 D.3.3.2: at most 16 characters
IMPLEMENTATION_VERSION_NAME = f"SENTINODE_{__version__.replace('.', '')}"[:16]
# PS3.16 CID 7005: purpose of reference of the equipment that made a result from images
PROCESSING_EQUIPMENT = ("109102", "DCM", "Processing Equipment")
