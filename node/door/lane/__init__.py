"""The fast lane: P-DATA of a C-STORE goes straight from the socket to the spool.

pynetdicom negotiates, keeps the state machine and serves everything else. What is ours: its
reactor thread waits on the socket instead of looking every millisecond, reads large pieces
into one buffer, and carries a C-STORE through by itself, response included.

    wire         the bytes of PDUs, PDVs and C-STORE messages
    buffer       what was read and not yet used
    store        a C-STORE on its way through: fragments in, response out
    reactor      pynetdicom's upper layer provider, waiting instead of polling
    waker        ending the wait of another thread
    association  pynetdicom's association and server around that reactor
    selfcheck    is this the pynetdicom that the lane was made for, and does it work?

docs/decisions/0013-fast-lane.md says why.
"""
