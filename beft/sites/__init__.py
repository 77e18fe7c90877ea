"""Where the biases of a model are."""
