"""Faults planted into slimnet's files, numbers, disks and moments; what came of each is judged.

A fault (:mod:`~faultlab.fault`) is a row: a command, what is planted before it, the world that it
runs in, and how it may end. Each kind has its file in :mod:`~faultlab.kinds`. Commands run in forks
of one process that has imported everything (:mod:`~faultlab.forks`), in a folder of their own with
good files from the shelf (:mod:`~faultlab.shelf`); the judge (:mod:`~faultlab.judge`) reads exit
codes, streams, memory and what lies in the folder afterwards, and knows nothing else.
"""
