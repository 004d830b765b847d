"""Webhooks: who is told when jobs fail, a destination is down, a disk is low.

`watch` sees that something happened and writes it down once for each target, whichever node saw
it; `post` tells the target, again until it takes it. No notice holds anything of a patient.
"""
