"""Networks and how they are sampled: tensors in, tensors out.

Transformer, policy, reward model, value model, encoder; published weights; building from settings.
Not here: losses (equations.py), training loops (training/), text (tokenizer.py).
"""
