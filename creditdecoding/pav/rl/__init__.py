"""Policy gradient with process rewards."""
