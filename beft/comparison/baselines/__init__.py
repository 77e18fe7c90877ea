"""What a target is measured against.

Two cheap baselines that it has to beat, tuned as fairly as it is:

- ``fit_logistic_regression``: on the base's frozen mean-pooled features, standardised, C chosen on dev; for values
  it is ``fit_ridge_regression``, for choices ``fit_conditional_logit``.
- ``fit_head_only``: the output layer alone, trained as the target trains it, on the frozen features that it sees.

Both are functions of arrays: the base runs once to give the features, and is not needed again. ``cheap.py`` fits them
and predicts with them on a dataset; ``named.py`` takes any method as a baseline, by its name.

And ``fit_weights``, which trains weights as the target trains its biases: all of the base (``FullFineTuning``), some
drawn at random (``RandUniform``), low-rank matrices beside its projections (``Lora``), keys and values before its own
(``Prefix``), low-rank changes of its value biases (``LowRankValue``), factors of keys, values and feed-forward
activations (``IA3``), its norms (``LNTuning``), or factors of random matrices beside its projections (``Vera``). What
is PEFT's own layers in the place of the base's shares ``PeftLayers``.
"""
