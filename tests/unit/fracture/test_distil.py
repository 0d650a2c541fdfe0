"""Distillation: the gradient against finite differences, nothing to lose for a copy, a teacher that stays as it is, students of the one pipeline."""

import re
from dataclasses import replace

import pytest
import torch

from circuits.fracture.distil import PADDING, STUDENTS, answer_logits, distil, distil_loss, student_config
from sparsetrain.data.worlds.rules import RulesConfig, draw_rules, training_rows
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.run import RunConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.studies.engine import Arm
from sparsetrain.training.fit import TrainerConfig

MICRO = ModelConfig(d_vocab=9, n_layer=1, d_model=8, d_head=4, d_mlp=8, n_ctx=5, abs_topk={}, positions="learned")
TOKENS = torch.randint(9, (6, 6), generator=torch.Generator().manual_seed(0))


def micro(seed: int) -> Transformer:
    """In float64, its logits of order one."""
    torch.manual_seed(seed)
    model = Transformer(MICRO).double()
    with torch.no_grad():
        model.unembed.weight.normal_()
        model.embed.weight.normal_()
    return model


def test_the_loss_is_the_divergence_from_the_teacher_by_hand() -> None:
    teacher, student = micro(0), micro(1)
    p, q = (answer_logits(model, TOKENS[:, :-1]).softmax(-1) for model in (teacher, student))
    by_hand = sum(p[i, v] * (p[i, v] / q[i, v]).log() for i in range(6) for v in range(9)) / 6
    torch.testing.assert_close(distil_loss(teacher)(student, {"tokens": TOKENS}), by_hand)
    whole = teacher(TOKENS[:, :-1])[:, -1]
    torch.testing.assert_close(answer_logits(teacher, TOKENS[:, :-1]), whole)
    other = TOKENS.clone()
    other[:, -1] = (other[:, -1] + 1) % 9
    assert torch.equal(distil_loss(teacher)(student, {"tokens": other}), distil_loss(teacher)(student, {"tokens": TOKENS}))  # fmt: skip


def test_shorter_prompts_filled_up_are_answered_as_alone() -> None:
    model = micro(0)
    long, short = TOKENS[:3, :5], TOKENS[3:, :3]
    filled = torch.cat([long, torch.nn.functional.pad(short, (0, 2), value=PADDING)])
    alone = torch.cat([model(long)[:, -1], model(short)[:, -1]])
    torch.testing.assert_close(answer_logits(model, filled), alone)


def test_gradient_against_finite_differences() -> None:
    student, loss = micro(1), distil_loss(micro(0))
    batch = {"tokens": TOKENS}
    loss(student, batch).backward()
    h, generator = 1e-6, torch.Generator().manual_seed(2)
    for name, p in student.named_parameters():
        assert p.grad is not None, name
        direction = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        values = []
        with torch.no_grad():
            for step in (h, -2 * h):
                p.add_(step * direction)
                values.append(loss(student, batch).item())
            p.add_(h * direction)
        assert (values[0] - values[1]) / (2 * h) == pytest.approx(float((p.grad * direction).sum()), abs=1e-7), name


def test_a_copy_has_nothing_to_lose_and_the_teacher_stays() -> None:
    teacher = micro(0)
    before = {name: p.clone() for name, p in teacher.state_dict().items()}
    loss = distil_loss(teacher)
    student = micro(1)
    student.load_state_dict(teacher.state_dict())
    value = loss(student, {"tokens": TOKENS})
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert all(p.grad is not None and p.grad.abs().max() < 1e-12 for p in student.parameters())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[name], p) for name, p in teacher.state_dict().items())
    with torch.no_grad():  # what becomes of the teacher afterwards does not move the target
        teacher.unembed.weight.zero_()
    assert loss(student, {"tokens": TOKENS}).item() == pytest.approx(0, abs=1e-15)


def test_every_student_has_weights_of_its_own() -> None:
    config = RunConfig(model=replace(MICRO, n_ctx=6), sparsity=SparsityConfig(density=0.5, floor=0), seed=3)
    configs = {name: student_config(config, student) for name, student in STUDENTS.items()}
    assert len({c.seed for c in configs.values()} | {config.seed}) == 1 + len(STUDENTS)
    assert {name: c.sparsity.density for name, c in configs.items()} == {
        "dense": 1, "dense_again": 1, "weight_sparse": 1 / 16, "abs_topk": 1,
    }  # fmt: skip
    assert {name: set(c.model.abs_topk.values()) for name, c in configs.items()} == {
        "dense": set(), "dense_again": set(), "weight_sparse": set(), "abs_topk": {0.5},
    }  # fmt: skip


def test_a_student_comes_near_its_teacher(tmp_path) -> None:
    world = draw_rules(RulesConfig(n_symbols=6, rules=("copy", "larger")), 0)
    config = RunConfig(
        model=replace(MICRO, d_vocab=world.config.d_vocab, n_ctx=6),
        sparsity=SparsityConfig(floor=0),
        trainer=TrainerConfig(n_steps=30, batch_size=32, device="cpu", n_threads=1, progress=False),
    )
    torch.manual_seed(5)
    teacher = Transformer(config.model)
    with torch.no_grad():
        teacher.unembed.weight.normal_()
    rows = training_rows(world, 30 * 32, 0)
    quarter = replace(STUDENTS["weight_sparse"], arm=Arm(density=0.25, abs_topk=1))
    student, weights = distil(config, quarter, teacher, rows, tmp_path)
    batch, loss = {"tokens": torch.from_numpy(world.train.tokens)}, distil_loss(teacher)
    start = student_config(config, quarter).recipe.draw()
    assert len(weights) == 64 and loss(student, batch) < 0.5 * loss(start, batch)
    q = student.state_dict()["blocks.0.attn.W_q.weight"]
    assert int(q.count_nonzero()) == round(0.25 * q.numel())
    with pytest.raises(ValueError, match=re.escape("the teacher has d_vocab=9, the student model.d_vocab=")):
        distil(config, STUDENTS["dense"], micro(0).float(), rows, tmp_path / "other")
