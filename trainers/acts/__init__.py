"""Where a trainer's acts come from: live from the model's prefix or from a cache on disk, through a shuffling buffer."""
