"""One room per paper. Rooms never import each other."""
