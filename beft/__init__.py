"""beft: bias-efficient fine-tuning. Find the bias term worth training, train only that, prove that it helps."""

__version__ = "0.1.0"
