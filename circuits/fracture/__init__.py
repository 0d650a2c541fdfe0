"""Same outputs, different insides: numbers of fracture and entanglement, networks composed by hand, perturbations of equal effect.

1. `measures`: pure functions of arrays: contributions of units, responses of behaviours to perturbations, attributions in several contexts.
2. `images`: pattern networks written by hand as graphs, the same functions as multilayer perceptrons, and as deliberately fractured ones.
3. `distil`, `gates`: students of one teacher, and whether two models have the same outputs; a pair that has not is not compared.
4. `perturbations`, `engine`: changes of weights of equal effect on the outputs, many in one batch, and what they do to every behaviour.

Source: Kumar, Clune, Lehman & Stanley 2025 (arXiv 2505.11581): fractured, one concept in unconnected pieces; entangled, independent behaviours interfere.
"""
