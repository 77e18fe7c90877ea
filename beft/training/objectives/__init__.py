"""What a step of a run makes small, and over which rows: batches, the contrastive loss, and the head after it."""
