"""The Hub's one file of code: made of the package's sources, complete, and the same function."""

import subprocess
import sys
from itertools import product
from types import ModuleType

import pytest
import torch

from sparsetrain.hooks import NODE_KINDS
from sparsetrain.interop import one_file
from sparsetrain.interop.one_file import FILE_NAME, PACKAGE, PARTS, modeling_file
from sparsetrain.model import ModelConfig, Transformer

FORMS = tuple(product((True, False), (True, False), ("none", "learned", "concat")))


@pytest.fixture(scope="module")
def alone() -> ModuleType:
    """The file as a module."""
    module = ModuleType("modeling_sparsetrain")
    module.__file__ = FILE_NAME
    sys.modules[module.__name__] = module  # dataclasses look there
    exec(compile(modeling_file(), FILE_NAME, "exec"), module.__dict__)
    return module


def test_it_holds_the_sources_as_they_stand():
    text = modeling_file()
    model = (PACKAGE / "model.py").read_text()
    block = model[model.index("class Block(nn.Module)") : model.index("class Transformer(nn.Module)")].rstrip()
    assert block in text
    assert "sparsetrain." not in "".join(line for line in text.splitlines() if line.startswith(("import", "from")))
    assert "einops" not in "".join(line for line in text.splitlines() if line.startswith(("import", "from")))
    assert "def whole" not in text


def test_it_is_made_anew_when_a_source_changes(monkeypatch, tmp_path):
    now = modeling_file()
    for place, _ in PARTS:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text((PACKAGE / place).read_text())
    model = tmp_path / "model.py"
    model.write_text(model.read_text().replace("self.activation(self.W_in(x))", "torch.relu(self.W_in(x))"))
    monkeypatch.setattr(one_file, "PACKAGE", tmp_path)
    changed = modeling_file.__wrapped__()
    assert "torch.relu(self.W_in(x))" in changed and "torch.relu(self.W_in(x))" not in now


@pytest.mark.parametrize(
    ("place", "old", "new", "says"),
    [
        ("model.py", "F.gelu,", "quick_gelu,", "uses quick_gelu"),
        ("kernels/topk.py", "def abs_topk_reference", "def reference", "defines no abs_topk_reference"),
        ("model.py", "def whole", "def complete", "no method whole"),
    ],
)
def test_what_would_not_run_is_refused_when_it_is_made(monkeypatch, tmp_path, place, old, new, says):
    for part, _ in PARTS:
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_text((PACKAGE / part).read_text())
    (tmp_path / place).write_text((tmp_path / place).read_text().replace(old, new))
    monkeypatch.setattr(one_file, "PACKAGE", tmp_path)
    with pytest.raises(ValueError, match=says):
        modeling_file.__wrapped__()


def test_linter_finds_no_undefined_name(tmp_path):
    (tmp_path / FILE_NAME).write_text(modeling_file())
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", str(tmp_path / FILE_NAME)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def drawn(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def test_every_set_of_places_of_abs_topk_in_every_form_gives_the_same_bits(alone):
    tokens = torch.randint(23, (2, 9), generator=torch.Generator().manual_seed(0))
    sets = [
        tuple(kind for i, kind in enumerate(NODE_KINDS) if number >> i & 1) for number in range(2 ** len(NODE_KINDS))
    ]
    for number, places in enumerate(sets):
        sink, bigram, positions = FORMS[number % len(FORMS)]
        settings = dict(
            d_vocab=23, n_layer=1, d_model=16, d_head=4, n_ctx=12, d_pos=4, sink=sink, bigram=bigram, positions=positions,
            abs_topk=dict.fromkeys(places, 0.25),
        )  # fmt: skip
        model = drawn(ModelConfig(**settings))
        other = alone.Transformer(alone.ModelConfig(**settings))
        other.load_state_dict(model.state_dict(), strict=True)
        with torch.no_grad():
            assert torch.equal(model(tokens), other(tokens)), (places, sink, bigram, positions)


@pytest.mark.parametrize("attention", ["fused", "reference"])
def test_gradients_are_the_same(alone, attention):
    settings = dict(d_vocab=23, n_layer=2, d_model=16, d_head=4, n_ctx=12, attention=attention)
    model = drawn(ModelConfig(**settings))
    other = alone.Transformer(alone.ModelConfig(**settings))
    other.load_state_dict(model.state_dict(), strict=True)
    tokens = torch.randint(23, (2, 9), generator=torch.Generator().manual_seed(0))
    for one in (model, other):
        one(tokens).square().mean().backward()
    grads = dict(other.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(grads[name].grad, p.grad, rtol=1e-6, atol=1e-7, msg=name)


def test_stand_ins_are_what_einops_does(alone):
    einops = pytest.importorskip("einops", reason="einops is a dependency of sparsetrain")
    x, q = torch.randn(2, 5, 12), torch.randn(2, 3, 5, 4)
    for pattern, y, sizes in (
        ("batch pos (head d) -> batch head pos d", x, {"head": 3}),
        ("batch head pos d -> batch pos (head d)", q, {}),
    ):
        assert torch.equal(alone.rearrange(y, pattern, **sizes), einops.rearrange(y, pattern, **sizes))
    pattern = "batch head query d, batch head key d -> batch head query key"
    assert torch.equal(alone.einsum(q, q, pattern), einops.einsum(q, q, pattern))
    sink, pattern = torch.randn(3), "head -> batch head query 1"
    assert torch.equal(alone.repeat(sink, pattern, batch=2, query=5), einops.repeat(sink, pattern, batch=2, query=5))
    with pytest.raises(ValueError, match="no pattern"):
        alone.rearrange(x, "a b c -> c b a")
