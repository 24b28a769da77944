"""Classes of cause, one file each: ``find(situation)`` yields what fits, with the evidence for it."""
