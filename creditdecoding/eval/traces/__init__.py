"""What recorded traces say: commit timing, calibration, oracle."""
