"""Images and label maps: one adapter per on-disk layout, one reader, and the built-in world."""
