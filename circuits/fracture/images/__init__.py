"""Image networks with a known inside: pictures composed by hand of few units, and networks of the same function with other insides.

1. `units`: what a unit computes; inputs of a pixel, outputs as a colour.
2. `graph`: a picture as a graph of units; `gallery` holds ours and their symmetries.
3. `network`: a bias-free multilayer perceptron, feature maps of every unit, the outputs without each of them; `layered` turns a graph into one.
4. `equals`: networks of the same function: rotated, split, duplicated.
"""
