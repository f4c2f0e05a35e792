"""Policy-gradient algorithms: what one update makes of a rollout.

Advantages; REINFORCE, RLOO and GRPO; PPO; TRPO.
Not here: the loop around them (training/finetune.py) and the formulas (equations.py).
"""
