"""minirlhf: fine-tuning a language model from language feedback, from scratch, in plain PyTorch."""

__version__ = "0.1.0"
