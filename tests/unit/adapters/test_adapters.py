"""Hugging Face models through the adapter: hook points read the truth, change what they name, and leave no trace."""

import sys

import numpy as np
import pytest
import tokenizers
import torch

from sparsetrain.adapters import LanguageModel, at_initialisation, load_language_model
from sparsetrain.adapters.hub_files import HubTokenizer
from sparsetrain.adapters.hugging_face import HookedHubModel, understand_norm
from sparsetrain.data.tokenizer import train_tokenizer
from sparsetrain.export import export_model
from sparsetrain.hooks import hook_points, hooked, node_points, record
from sparsetrain.model import Transformer
from sparsetrain.representation.controls import gain_of

transformers = pytest.importorskip("transformers", reason="other people's models need transformers (extra: hub)")
from hub_example import (  # noqa: E402
    D_VOCAB,
    LLAMA,
    SIZES,
    WORDS,
    configs,
    hub_model,
    save_hub_model,
    save_tokenizer,
    shrinking_model,
)

PARTS = ("norm.hook_resid", "norm.hook_norm", "hook_in", "hook_out")
WHOLE = [
    f"blocks.{i}.{name}"
    for i in range(2)
    for name in (
        *(f"attn.{part}" for part in (*PARTS[:3], "hook_z", "hook_out")),
        *(f"mlp.{part}" for part in (*PARTS[:3], "hook_neuron", "hook_out")),
    )
] + ["final_norm.hook_resid", "final_norm.hook_norm"]
ABSENT = {
    "gptj": ("mlp.norm.hook_resid", "mlp.norm.hook_norm", "mlp.hook_in"),
    "gemma2": ("attn.hook_out", "mlp.hook_out"),
    "mixtral": ("mlp.hook_neuron",),
}
TOKENS = torch.randint(D_VOCAB, (3, 11), generator=torch.Generator().manual_seed(1))


def attached(hub):
    """Number of torch's hooks on a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hub.modules())


@pytest.mark.parametrize("name", list(configs()))
def test_hook_points_of_every_architecture(name):
    hub = hub_model(name)
    with torch.no_grad():
        expected = hub(TOKENS, attention_mask=torch.ones_like(TOKENS), use_cache=False).logits
        states = hub(TOKENS, output_hidden_states=True).hidden_states
    before = attached(hub)  # transformers keeps hooks of its own for the hidden states
    model = HookedHubModel(hub)
    points = hook_points(model)
    assert set(points) == {p for p in WHOLE if not p.endswith(ABSENT.get(name, ()))}
    assert all(any(p.startswith(left) for left in model.left_out) for p in set(WHOLE) - set(points))
    with torch.no_grad():
        logits, seen = record(model, TOKENS, points)
    assert torch.equal(logits, expected) and torch.equal(model(TOKENS), expected)
    for point in points.values():
        assert seen[point.name].shape == (3, 11, point.width)
    width = states[0].shape[-1]
    for i in range(2):
        torch.testing.assert_close(seen[f"blocks.{i}.attn.norm.hook_resid"], states[i])
        normed = seen[f"blocks.{i}.attn.norm.hook_norm"]
        centred = normed.mean(-1).abs().max() < 1e-4
        assert centred == (name in ("gpt2", "neox", "opt", "gptj"))
        torch.testing.assert_close(normed.square().mean(-1), torch.ones(3, 11), rtol=1e-2, atol=0)
        direction = seen[f"blocks.{i}.attn.norm.hook_resid"]
        direction = direction - direction.mean(-1, keepdim=True) if centred else direction
        torch.testing.assert_close(torch.cosine_similarity(normed, direction, -1), torch.ones(3, 11))
        if name not in ABSENT:
            after = seen["blocks.1.attn.norm.hook_resid" if i == 0 else "final_norm.hook_resid"]
            written = seen[f"blocks.{i}.attn.hook_out"] + seen[f"blocks.{i}.mlp.hook_out"]
            torch.testing.assert_close(states[i] + written, after, rtol=1e-4, atol=1e-5)
    assert points["blocks.0.attn.hook_in"].width == width
    assert attached(hub) == before


@pytest.mark.parametrize(("kind", "centred"), [("rms", False), ("layer", True)])
def test_a_norm_of_half_precision_is_the_nearest_form(kind, centred):
    """Of a wide stream the mean is so small that the other form comes within what bfloat16 rounds."""
    width = 2048
    norm = torch.nn.RMSNorm(width, eps=1e-6) if kind == "rms" else torch.nn.LayerNorm(width)
    torch.nn.init.normal_(norm.weight, 1, 0.1)
    norm = norm.to(torch.bfloat16)
    x = torch.randn(1, 8, width, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) + 0.02
    with torch.no_grad():
        found = understand_norm(norm, x, norm(x), 3e-2)
    assert found is not None and found.centred is centred


def test_neurons_are_what_the_last_projection_reads():
    hub = hub_model("llama")
    _, seen = record(HookedHubModel(hub), TOKENS, WHOLE)
    mlp = hub.model.layers[1].mlp
    x = seen["blocks.1.mlp.hook_in"]
    torch.testing.assert_close(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), seen["blocks.1.mlp.hook_neuron"])
    torch.testing.assert_close(mlp.down_proj(seen["blocks.1.mlp.hook_neuron"]), seen["blocks.1.mlp.hook_out"])


def test_heads_channels_are_what_the_output_projection_reads_head_by_head():
    hub = hub_model("llama")
    model = HookedHubModel(hub)
    with torch.no_grad():
        _, seen = record(model, TOKENS, WHOLE)
    attn, x, z = hub.model.layers[1].self_attn, seen["blocks.1.attn.hook_in"], seen["blocks.1.attn.hook_z"]
    torch.testing.assert_close(attn.o_proj(z), seen["blocks.1.attn.hook_out"])
    # At the first position a head sees itself alone: its channels are its group's values there.
    values = attn.v_proj(x[:, 0]).unflatten(-1, (2, 8)).repeat_interleave(2, dim=1)
    torch.testing.assert_close(z[:, 0], values.flatten(-2))
    assert (model.d_head, z.shape[-1]) == (8, 32)


def test_nodes_of_circuits_are_neurons_and_heads_channels():
    model = HookedHubModel(hub_model("gpt2"))
    assert set(node_points(model)) == {f"blocks.{i}.{x}" for i in range(2) for x in ("attn.hook_z", "mlp.hook_neuron")}


@pytest.mark.parametrize("name", list(configs()))
def test_going_on_from_what_was_read_is_reading_the_whole(name):
    model = HookedHubModel(hub_model(name))
    point = "blocks.1.attn.hook_z"
    with torch.no_grad():
        whole, seen = record(model, TOKENS, [point])
        past = model.begin(TOKENS[:, :7])
        for n in (9, 11, 11):  # what was begun is left as it was
            logits, later = record(model, TOKENS[:, 7:n], [point], None, past)
            assert torch.allclose(logits, whole[:, 7:n], atol=1e-5)
            assert torch.allclose(later[point], seen[point][:, 7:n], atol=1e-5)
        with pytest.raises(ValueError, match=f"{model.n_ctx + 1} positions, but the model reads {model.n_ctx}"):
            model(torch.zeros(3, model.n_ctx - 6, dtype=torch.int64), past=past)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "opt"])
def test_gradients_reach_what_a_hook_has_seen(name):
    model = HookedHubModel(hub_model(name))
    names = [point for point in hook_points(model) if not point.endswith("hook_norm")]
    seen = {}

    def keep(x, point):
        seen[point.name] = x if x.requires_grad else x.requires_grad_()
        return x

    with hooked(model, dict.fromkeys(names, keep)):
        logits = model(TOKENS, torch.tensor([3, 10, 7]))
    grads = torch.autograd.grad(logits.square().sum(), list(seen.values()))
    assert all(grad.abs().sum() > 0 for grad in grads)
    torch.testing.assert_close(logits, model(TOKENS)[torch.arange(3), torch.tensor([3, 10, 7])])


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "opt", "gemma"])
def test_a_function_changes_what_it_names(name):
    hub = hub_model(name)
    model = HookedHubModel(hub)
    plain, seen = record(model, TOKENS, WHOLE)
    # Nothing is written: what comes out is the embedding.
    silent = {p: lambda x, point: torch.zeros_like(x) for p in WHOLE if p.endswith("hook_out")}
    with hooked(model, silent):
        _, without = record(model, TOKENS, ["blocks.1.attn.norm.hook_resid", "final_norm.hook_resid"])
    for value in without.values():
        torch.testing.assert_close(value, seen["blocks.0.attn.norm.hook_resid"])
    # The norm forgets the scale of what it reads; its gain acts behind `hook_norm`, not in front of it.
    with hooked(model, {"blocks.1.mlp.norm.hook_resid": lambda x, point: 3 * x}):
        torch.testing.assert_close(model(TOKENS), plain, rtol=1e-3, atol=1e-3)
    with hooked(model, {"blocks.1.mlp.norm.hook_norm": lambda x, point: x * 1.0}):
        torch.testing.assert_close(model(TOKENS), plain, rtol=1e-4, atol=1e-4)
    with hooked(model, {"blocks.1.mlp.norm.hook_norm": lambda x, point: torch.zeros_like(x)}):
        _, blank = record(model, TOKENS, ["blocks.1.mlp.hook_in"])
    bias = next((m.bias for n, m in hub.named_modules() if n.endswith(BIASED.get(name, "-"))), torch.zeros(32))
    torch.testing.assert_close(blank["blocks.1.mlp.hook_in"], bias.expand(3, 11, 32))
    for point in ("blocks.0.mlp.hook_neuron", "blocks.0.attn.hook_z"):
        with hooked(model, {point: lambda x, point: torch.zeros_like(x)}):
            assert not torch.allclose(model(TOKENS), plain)
    assert torch.equal(model(TOKENS), plain)


BIASED = {"gpt2": "h.1.ln_2", "neox": "layers.1.post_attention_layernorm", "opt": "layers.1.final_layer_norm"}


def test_hooks_come_off_after_an_error():
    hub = hub_model("gpt2")
    model = HookedHubModel(hub)

    def fail(x, point):
        raise FloatingPointError("here")

    with pytest.raises(FloatingPointError, match="here"), hooked(model, {"blocks.1.mlp.hook_neuron": fail}):
        model(TOKENS)
    assert not attached(hub)
    assert not any(point.fns for point in hook_points(model).values())


def test_near_names_and_length():
    model = HookedHubModel(hub_model("gpt2"))
    with pytest.raises(KeyError, match=r"hook_neurons'; near names: blocks\.\d\.mlp\.hook_neuron"):
        record(model, TOKENS, ["blocks.0.mlp.hook_neurons"])
    with pytest.raises(ValueError, match="65 positions, but the model reads 64"):
        model(torch.zeros(1, 65, dtype=torch.int64))


def test_hidden_size_that_changes_between_layers_is_refused():
    with pytest.raises(ValueError, match=r"LlamaForCausalLM changes between layers: 32 at blocks.0, 16 at blocks.1"):
        HookedHubModel(shrinking_model())


@pytest.mark.parametrize("name", ["gpt2", "gemma"])
def test_gain_and_weights_before_training(name):
    hub = hub_model(name)
    module = HookedHubModel(hub)
    points = ["blocks.1.mlp.norm.hook_norm", "blocks.1.mlp.hook_in"]
    _, seen = record(module, TOKENS, points)
    gain = gain_of(module, points[0])
    bias = getattr(hub.transformer.h[1].ln_2, "bias", 0) if name == "gpt2" else 0
    torch.testing.assert_close(seen[points[0]] * gain + bias, seen[points[1]], rtol=1e-4, atol=1e-5)
    model = LanguageModel(
        name="m", architecture="", module=module, tokenizer=None, n_ctx=64, step=None, weights_sha256="", seed=None,
        left_out={},
    )  # fmt: skip
    state = torch.get_rng_state()
    first, again, other = (at_initialisation(model, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert set(hook_points(first)) == set(hook_points(module))
    assert torch.equal(first(TOKENS), again(TOKENS)) and not torch.equal(first(TOKENS), other(TOKENS))
    assert not torch.equal(first(TOKENS), module(TOKENS))


def test_a_run_of_ours_is_drawn_anew_from_its_own_seed(make_model, tmp_path):
    config = make_model(d_vocab=270).config
    torch.manual_seed(5)
    began = Transformer(config)
    tokenizer = train_tokenizer(["for i in range(3):\n    print(i)\n" * 80], 270)
    export_model(make_model(d_vocab=270), tmp_path / "export" / "step_9", tokenizer.to_json(), {"step": 9, "seed": 5})
    model = load_language_model(str(tmp_path), device="cpu")
    assert model.seed == 5
    for name, p in at_initialisation(model, seed=1).state_dict().items():
        assert torch.equal(p, began.state_dict()[name]), name


def test_a_model_that_looks_ahead_is_refused():
    config = transformers.BertConfig(
        vocab_size=D_VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    with pytest.raises(ValueError, match="BertLMHeadModel looks ahead"):
        HookedHubModel(transformers.BertLMHeadModel(config))


def test_folder_round_trip(tmp_path):
    folder = save_hub_model(tmp_path / "model", "llama")
    model = load_language_model(f"hf:{folder}", device="cpu")
    assert torch.equal(model.logits(TOKENS), hub_model("llama")(TOKENS).logits)
    assert (model.architecture, model.n_ctx, model.step) == ("LlamaForCausalLM", 64, None)
    assert model.tokenizer.encode("w3 nothing w59") == [4, 0, 60] and model.tokenizer.unknown_id == 0
    assert 0 in model.tokenizer.special_ids and model.tokenizer.token(4) == "w3"
    again = load_language_model(f"hf:{folder}", device="cpu")
    assert again.weights_sha256 == model.weights_sha256 and model.n_params == again.n_params
    half = load_language_model(f"hf:{folder}", device="cpu", precision="bfloat16")
    assert half.weights_sha256 != model.weights_sha256 and set(half.hook_points()) == set(WHOLE)
    assert half.logits(TOKENS).dtype == torch.float32


def test_exports_of_ours_have_the_same_verbs(make_model, tmp_path):
    tokenizer = train_tokenizer(["for i in range(3): print(i)\n" * 50], 270)
    ours = make_model(d_vocab=270)
    folder = export_model(ours, tmp_path / "export" / "step_3", tokenizer.to_json(), {"step": 3})
    model = load_language_model(str(tmp_path), device="cpu")
    ids = model.tokenizer.encode("for i")
    assert model.tokenizer.characters("for i") == [0, *tokenizer.n_chars[ids[1:]]] and sum(tokenizer.n_chars[ids]) == 5
    assert ids == [tokenizer.eot_id, *tokenizer.encode("for i")] and model.tokenizer.unknown_id is None
    assert torch.equal(model.logits(torch.tensor([ids])), ours(torch.tensor([ids])))
    assert model.step == 3 and list(model.hook_points()) == list(hook_points(ours)) and folder.is_dir()
    assert load_language_model(f"run:{tmp_path}", device="cpu").weights_sha256 == model.weights_sha256
    with pytest.raises(ValueError, match="precision=bfloat16 is for models behind 'hf:'"):
        load_language_model(str(tmp_path), device="cpu", precision="bfloat16")


def test_what_cannot_be_loaded_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = save_hub_model(tmp_path / "model")

    def failing(name, match):
        with pytest.raises((ValueError, FileNotFoundError), match=match) as error:
            load_language_model(name, device="cpu")
        assert "\n" not in str(error.value)

    failing(f"hf:{tmp_path}/modle", r"modle: no such folder; near names: model")
    failing("hf:", "names no model")
    failing(f"{tmp_path}/nowhere", "no such folder; give the folder of a finished run")
    (tmp_path / "bare").mkdir()
    failing(f"hf:{tmp_path}/bare", "has no config.json")
    for name in ("gpt2", "llama"):  # of one of them the library makes a tokenizer without words
        hub_model(name).save_pretrained(tmp_path / name)
        failing(f"hf:{tmp_path}/{name}", "could not be loaded: there is no tokenizer beside the model; save it there")
    save_tokenizer(folder, [*WORDS, "more"])
    failing(f"hf:{folder}", "the tokenizer has 62 tokens, the model 61")
    transformers.LlamaConfig(**SIZES, **{**LLAMA, "num_hidden_layers": 3}).save_pretrained(folder)
    failing(f"hf:{folder}", "could not be loaded: .* weights of the model are not in its files")
    monkeypatch.setitem(sys.modules, "transformers", None)
    failing(f"hf:{folder}", r"needs the transformers library; install it with pip install 'sparsetrain\[hub\]'")


def test_right_padding_changes_nothing_before_it():
    model = HookedHubModel(hub_model("opt"))
    padded = torch.cat([TOKENS[:, :6], torch.zeros(3, 5, dtype=torch.int64)], 1)
    np.testing.assert_allclose(model(padded)[:, :6], model(TOKENS[:, :6]), rtol=1e-4, atol=1e-5)


def test_a_special_token_that_a_text_spells_stays_text():
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        ["some text and more text"],
        tokenizers.trainers.BpeTrainer(
            special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    end = "<|endoftext|>"
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end)
    for plain, text in ((fast, f"a {end} b{end}"), (transformers.ByT5Tokenizer(), "a</s>b<pad> c")):
        special = set(plain.all_special_ids)
        assert special & set(plain.encode(text, add_special_tokens=False)), "by itself it is read as the token"
        tokenizer = HubTokenizer(plain)
        ids = tokenizer.encode(text)
        assert not special & set(ids) and tokenizer.decode(ids) == text
    tokenizer = HubTokenizer(fast)
    for text in ("a  é b\n", "", "\u6f22\u5b57 "):
        ids, characters = tokenizer.encode(text), tokenizer.characters(text)
        assert len(characters) == len(ids) and sum(characters) == len(text) and min(characters, default=0) >= 0
    assert HubTokenizer(transformers.ByT5Tokenizer()).characters("a") is None  # it does not say where a token stands
