"""Signed evidence: keys, trust, the manifest, seals, and their verification. Nothing of a submission is executed."""
