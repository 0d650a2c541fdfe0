"""Names of nodes, and small circuits as programs."""

import pytest
from report_example import random_graph, string_closing_graph

from circuits.explain.words import MAX_EDGES, STAGE, describe, program, signed, visible
from circuits.section import Drawing
from sparsetrain.hooks import FOREIGN_KINDS, NODE_KINDS


def test_every_node_kind_has_a_place():
    assert set(STAGE) == {*NODE_KINDS, *FOREIGN_KINDS}
    assert [STAGE[kind] for kind in NODE_KINDS] == sorted(STAGE[kind] for kind in NODE_KINDS)


def test_node_names():
    assert describe(1, "attn_k", 83, 16) == "layer 1: key channel 83 (head 5)"
    assert describe(1, "attn_k", 83) == "layer 1: key channel 83"
    assert describe(0, "mlp_in", 20, 16) == "layer 0: MLP reads residual channel 20"


def test_program_of_the_string_closing_circuit():
    text = program(string_closing_graph())
    assert text is not None
    lines = [" ".join(line.split("#")[0].split()) for line in text.splitlines()[1:]]
    assert [line for line in lines if line] == [
        "layer 0, MLP",
        'read[20] = residual 20, embedding of `("` +0.81, `(\'` +0.77, `"` +0.4',
        "read[44] = residual 44, embedding of `('` +0.92, `(\"` −0.88",
        "neuron[460] = act(+1.27 read[44] +0.12 read[20])",
        "neuron[985] = act(+0.83 read[20])",
        "write[863] += −1.44 neuron[460]",
        "write[1249] += +0.91 neuron[985]",
        "layer 1, attention",
        "read[863] = residual 863, written by layer 0 MLP",
        "read[1249] = residual 1249, written by layer 0 MLP",
        "q[83] = −0.08 read[1249] (head 5)",
        "k[83] = +1.62 read[1249] (head 5)",
        "v[82] = +1.18 read[863] (head 5)",
        "write[1079] += −2.31 v[82], averaged over where the head attends",
        "answer",
        "write[1079] of layer 1 adds to the logits of `')` +0.94, `\")` −0.9, `'` +0.31",
    ]
    assert text.count("loss without it +0.") == 12


def test_no_program_for_large_or_empty_circuits():
    large = random_graph(60, 100)
    assert len(large.edges) > MAX_EDGES
    assert program(large) is None
    assert program(Drawing(nodes=(), edges=())) is None


@pytest.mark.parametrize(("text", "shown"), [("a\nb\t", "a⏎b⇥"), ("\x00", "\\x00"), (" x", " x"), ("é", "é")])
def test_visible(text, shown):
    assert visible(text) == shown


def test_signed():
    assert [signed(x) for x in (0.5, -0.5, 0.0, None)] == ["+0.5", "−0.5", "+0", "?"]
