"""Image quality metrics, each stamped with its protocol."""
