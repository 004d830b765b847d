"""Torture: a node of real processes, honest modalities, a harsh PACS, faults at seeded moments.

patients  images made by code from a seed
book      what was acknowledged, and when
modality  senders that send again what was not answered 0x0000
relay     a wire that breaks in the middle of an image
pacs      a receiver that misbehaves as told, and remembers every byte
processes one process for each role, so that each can be killed by its id
servers   SQL, the broker and the disk, and how they are taken away
site      all of it together
faults    the kinds of faults; each says whether it hit
drive     one run: load, faults, settling
audit     what was acknowledged against what the ledger, the store and the PACS hold
"""
