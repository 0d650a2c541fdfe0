"""Two runs side by side: settings, losses, tasks and circuits, activation sparsity.

`compare.compare` puts the parts together, one file each; `section` holds their types.
"""
