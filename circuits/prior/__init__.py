"""Context against prior: when does a model answer from what training burnt in although the prompt says otherwise, and what turns it?

1. `cases`: a conflict as tokens, one prompt for every form of saying it, two answers. Worlds of tokens and texts are written by the same code.
2. `asking`: cases put to a model, as it stands or with an intervention; what is read is kept case by case (`scores`).
3. `prompts` and `interventions` are arms: each has the same number of settings, chosen on facts that are never reported (`tuning`).
4. `study`: tuning, the same arms on other facts, random controls, the opposite intent, damage to neutral text; `page` turns it into a section.
5. `conflicts`: cases from users' files.

Source: Yu et al. 2023, Longpre et al. 2021, Du et al. 2024; each intervention names its own.
"""
