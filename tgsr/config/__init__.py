"""Option files: read, merged, checked to the leaf, frozen."""
