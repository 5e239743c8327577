"""Rollout labels: strategies, collection, storage."""
