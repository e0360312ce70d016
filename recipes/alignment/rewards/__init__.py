"""Rewards: what an answer of the policy is worth, one module a domain."""
