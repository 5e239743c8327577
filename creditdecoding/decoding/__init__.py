"""From prompts to finished answers: requests, one forward pass, the loop, the engine."""
