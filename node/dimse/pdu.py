"""Headers of PDUs and their items (PS3.8 Section 9.3, Annex E.2), for what we write ourselves."""

from __future__ import annotations

import struct

# PS3.8 Section 9.3: type, reserved, length; and Section 9.3.5.1 with E.2: length, context, control.
PDU_HEADER = struct.Struct(">BxL")
PDV_HEADER = struct.Struct(">LBB")
P_DATA = 0x04
KNOWN_PDUS = frozenset(range(1, 8))
COMMAND, LAST = 0x01, 0x02  # PS3.8 Annex E.2, message control header
NO_DATA_SET = 0x0101  # PS3.7 Annex E.1, Command Data Set Type
