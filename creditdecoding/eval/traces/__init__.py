"""What recorded traces say: when tokens were decided, calibration, and the oracle's bound."""
