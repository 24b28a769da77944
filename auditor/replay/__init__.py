"""Re-execution of training from anchors, with named interventions. It starts programs and reads what they leave."""
