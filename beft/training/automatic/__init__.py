"""``train.method: auto``: the way of training is chosen by cross-validation on the sample itself."""
