"""Demonstrations for a prompt, chosen and ordered by what a model's own activations say of them.

1. Every example of a pool is read once by the model: how sparse it is, how well its answer is predicted, what it resembles (`scoring`).
2. Scores become ranks and levels (`ranking`); an *arm* is a rule that takes them to the demonstrations of one prompt, in their order (`arms`).
3. All arms write their prompts in one wording and under one budget of tokens (`prompts`), and are compared item by item (`compare`).
"""
