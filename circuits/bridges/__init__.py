"""Bridges: a weight-sparse student coupled to a frozen dense teacher, so that what is found in the one can be carried over to the other.

1. `sites`: the places at which both models can be left and entered, and passes that are entered there, by hooks alone.
2. `bridge`: an encoder and a decoder per site, and their file beside the student's export.
3. `hybrid`: passes that cross between the models at any set of sites; the table of their losses.
4. `losses`: what student and bridge are trained on, as an objective of the one training.
5. `steer`: one node of the sparse model changed, carried across, added to what the dense model reads; and the controls.
6. `study`: all of it, with rules before the run.

Source: Gao et al. 2025 (arXiv 2511.13653), sections 2.3, 3.3, A.3 and A.4.
"""
