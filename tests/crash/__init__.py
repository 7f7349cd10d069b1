"""Proofs that what was acknowledged survives: power failures, killed processes, failing disks.

    recorder.c  record.py   what a process does to a folder, as a log (LD_PRELOAD); failures on demand
    states.py               the folders that a power failure can leave, made from the log: the model of a disk
    workloads.py            what is recorded, and how what is left is read
    mutants.py              mistakes that the check has to find
    check.py                opens all states and compares them with what was acknowledged
    zygote.py               children at the cost of a fork: to be killed, to be given faults
    kill.py                 kill -9, thousands of times

Linux with gcc only.
"""
