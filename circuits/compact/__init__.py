"""Compact circuits: a node circuit compiled to a small model of the channels that move.

The definition of a circuit's logits is the masked full model: `Transformer.forward` with every deleted node at its mean
(`circuits.masks.ablation_hooks`). This is its compiled form for a fixed mask; everything is derived from the
Transformer's own parameters, and `tests/unit/circuits/test_compact.py` holds the two equal for every option of the model.

1. A deleted write adds a constant to the residual stream; a deleted read, q, k, v or neuron folds into the next bias.
2. A residual channel that no kept node writes is a function of the token alone (and of the position, where positions are
   added), its *frame*. Its share of a norm's sum of squares is one number per frame and norm, computed when a frame is
   first seen. A norm before the first kept write is such a function as a whole.
3. Elsewhere a channel that no kept node reaches is constant: q, k, v, neurons, mlp_out; attn_out for each position, since
   a head without kept nodes still shares its weight between the tokens so far and the sink. With concatenated positions,
   whatever reads them is computed; where positions compete in AbsTopK (`ModelConfig.places_compete`) there is no compact form.
4. AbsTopK is exact though most of its row is never computed. Of m computed channels and the others, whose magnitudes are
   known beforehand, k survive: the k - m largest of the others whatever the computed ones do, those below rank k never.
   So at most m of them are left to compete with the m for the other places, ties still going to the lowest channel.
   Deleted channels that kept nodes reach are computed, since they compete, and then emit their mean.
5. After the last attention with a kept write only the asked positions are computed.

Logits equal the masked full model's within 1e-5 where logits are of order one (float32; sums are taken in another order),
and the same channels survive each AbsTopK except where rounding alone decides between two magnitudes: there the full model's
own choice hangs on the order of its sums. In a dense model nearly everything is reached: the result is right but not small.

`contest` is AbsTopK over rows of which most is never computed, `layers` what is left of attention and MLP, `model` the circuit as a whole.
"""

from circuits.compact.model import CompactCircuit, compile_circuit, compiles

__all__ = ["CompactCircuit", "compile_circuit", "compiles"]
