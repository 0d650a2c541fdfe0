"""Image networks with a known inside: pictures composed by hand of few units, and networks of the same function with other insides.

1. `units`: what a unit computes; inputs of a pixel, outputs as a colour.
2. `graph`: a picture as a graph of units; `gallery` holds ours and their symmetries.
3. `network`: a bias-free multilayer perceptron, feature maps of every unit, the outputs without each of them; `layered` turns a graph into one.
4. `equals`: networks of the same function: rotated, split, duplicated.
5. `imitation`: networks that learn a picture by gradient descent; `perturbed`: what changes of weights of equal effect do to a symmetry.
6. `study`: what tells them apart, by rules fixed beforehand, of what `readings` reads; `tables`, `sheets`: its numbers and pictures.
"""
