"""What a check may say: evidence classes, findings, claims, the registry of rules, and output formats."""
