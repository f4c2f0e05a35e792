"""Policy-gradient algorithms: each turns a rollout into one update of the policy.

Advantages; REINFORCE, RLOO and GRPO; PPO; TRPO.
Not here: the loop around them (training/finetune.py) and the formulas (equations.py).
"""
