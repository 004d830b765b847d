"""The audit trail: who looked at what, who did what (PS3.15 A.5).

`messages` makes the XML, `trail` keeps it in a file and tells a syslog server.
"""

from node.web.audit.messages import Happening, Outcome
from node.web.audit.trail import Audit

__all__ = ["Audit", "Happening", "Outcome"]
