"""The algorithms that turn a rollout's scores into an update of the policy; make.py lists them."""
