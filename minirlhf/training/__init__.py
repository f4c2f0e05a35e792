"""Training: pretraining, reward model, policy gradients."""
