"""What every other room may use: errors, registries, random streams, files, images. Imports nothing of tgsr."""
