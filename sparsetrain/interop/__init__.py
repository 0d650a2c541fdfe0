"""Our models in other people's tools.

1. `hub_folder.py` writes an export as a repository of the Hugging Face hub, `card.py` its page, `hub_push.py` uploads it.
2. `one_file.py` makes that repository's code out of this package's own sources (`standalone.py` and `hub_model.py` are what it adds to them).
3. `transformer_lens.py` is TransformerLens's adapter; nnsight needs none, because hook points are modules.
4. `activations.py` writes and reads activations for dictionary learning.

None of those tools is imported unless it is asked for.
"""
