"""launch/linux."""
