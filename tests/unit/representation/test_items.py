"""Texts of any lengths, read one by one: what is read where, and that neither company nor padding matters."""

import numpy as np
import pytest
import torch

from sparsetrain.hooks import HookPoint, hook_points, hooked, record
from sparsetrain.representation import evaluate
from sparsetrain.representation.controls import read_items
from sparsetrain.representation.evaluate import LOGIT_MEASURES
from sparsetrain.representation.items import Item, Looks, read_items_of_any_length, read_resumably
from sparsetrain.representation.measures import gini

FINAL = "final_norm.hook_norm"
LENGTHS = ((2, 0), (9, 2), (30, 1), (17, 0), (64, 3))


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(n_layer=2, d_model=32, d_head=8, n_ctx=64, d_vocab=50)


def items() -> list[Item]:
    generator = torch.Generator().manual_seed(0)
    return [Item(tokens=tuple(torch.randint(50, (n,), generator=generator).tolist()), n_answer=a) for n, a in LENGTHS]


def test_neither_the_batch_nor_the_padding_changes_anything(model):
    points = tuple(name for name, point in hook_points(model).items() if point.width > 1)
    looks = Looks(points=points, controlled=(FINAL,), energy={FINAL: torch.arange(32.0)})
    together, alone = (read_items_of_any_length(model, items(), looks, batch_size=n) for n in (5, 1))
    assert together.keys() == alone.keys() and len(together) > 3 * 2 * len(points)
    for name, values in together.items():
        np.testing.assert_allclose(values, alone[name], atol=1e-5, err_msg=name)


def test_last_is_where_the_answer_is_predicted(model):
    item = items()[2]
    found = read_items_of_any_length(model, [item], Looks(points=(FINAL,), controlled=(FINAL,)))
    known = read_items(model, torch.tensor([item.tokens]), (FINAL,))
    for control in ("none", "gain", "rotated"):
        assert found[f"{FINAL}|{control}|last|gini"][0] == pytest.approx(
            float(known.measures[FINAL, control, "gini"]), abs=1e-6
        )
    assert found["answer_loss"][0] == found["loss|last"][0] == pytest.approx(float(known.loss), abs=1e-5)
    assert found["correct"][0] == float(known.logits.argmax() == item.tokens[-1])


def test_all_leaves_the_first_token_out(model):
    item = items()[3]

    _, seen = record(model, torch.tensor([item.tokens[:-1]]), [FINAL])
    each = gini(seen[FINAL][0].detach())
    found = read_items_of_any_length(model, [item], Looks(points=(FINAL,)))
    assert found[f"{FINAL}|none|all|gini"][0] == pytest.approx(each[1:].mean().item(), abs=1e-6)
    assert found[f"{FINAL}|none|first|gini"][0] == pytest.approx(each[0].item(), abs=1e-6)
    assert np.isnan(found["answer_loss"][0])


def test_an_answer_of_several_tokens_counts_by_its_length_and_is_right_as_a_whole(model):
    start = items()[0].tokens
    with torch.no_grad():
        first = int(model(torch.tensor([start]))[0, -1].argmax())
        second = int(model(torch.tensor([[*start, first]]))[0, -1].argmax())
    wrong = (second + 1) % 50
    right, half = (Item(tokens=(*start, first, last), n_answer=2) for last in (second, wrong))
    found = read_items_of_any_length(model, [right, half], Looks(points=(FINAL,)))
    assert found["correct"].tolist() == [1.0, 0.0]
    with torch.no_grad():
        log_p = model(torch.tensor([[*start, first]])).log_softmax(-1)[0, -2:]
    assert found["answer_loss"][0] == pytest.approx(-float((log_p[0, first] + log_p[1, second]) / 2), abs=1e-5)


def test_what_cannot_be_read_is_said(model):
    with pytest.raises(ValueError, match="it needs two tokens"):
        Item(tokens=(1,))
    with pytest.raises(ValueError, match="one in front of the answer"):
        Item(tokens=(1, 2), n_answer=2)
    with pytest.raises(KeyError, match="no hook point named 'nowhere'"):
        read_items_of_any_length(model, items(), Looks(points=("nowhere",)))

    with pytest.raises(ValueError, match=r"'final_norm\.hook_scale' has one channel"):
        read_items_of_any_length(model, items(), Looks(points=(FINAL, "final_norm.hook_scale")))
    with pytest.raises(ValueError, match=r"'final_norm\.hook_norm' is controlled, but not among"):
        read_items_of_any_length(model, items(), Looks(points=(), controlled=(FINAL,)))


def test_a_zero_vector_is_left_out_and_another_nan_stays(model):
    item = items()[3]
    plain = read_items_of_any_length(model, [item], Looks(points=(FINAL,)))[f"{FINAL}|none|all|gini"][0]
    _, seen = record(model, torch.tensor([item.tokens[:-1]]), [FINAL])
    each = gini(seen[FINAL][0].detach())[1:].double()
    for value, expected in ((0.0, (each.sum() - each[4]).item() / (len(each) - 1)), (torch.nan, torch.nan)):

        def change(x: torch.Tensor, point: HookPoint, value=value) -> torch.Tensor:
            x = x.clone()
            x[:, 5] = value
            return x

        with hooked(model, {FINAL: change}):
            found = read_items_of_any_length(model, [item], Looks(points=(FINAL,)))[f"{FINAL}|none|all|gini"][0]
        assert found == pytest.approx(expected, abs=1e-6, nan_ok=True) and found != plain


def test_without_hook_points_the_logits_are_read(model):
    found = read_items_of_any_length(model, items(), Looks(points=()))
    assert found.keys() == {f"{name}|{where}" for name in LOGIT_MEASURES for where in ("last", "all")} | {
        "answer_loss",
        "correct",
        "n_tokens",
    }
    assert found["n_tokens"].tolist() == [n for n, _ in LENGTHS]


def test_batches_read_side_by_side_are_read_as_one_after_the_other(model, tmp_path):
    """To the last bit, whatever the number of threads, and the model is left without hooks."""
    looks = Looks(points=(FINAL,), controlled=(FINAL,))
    alone = read_items_of_any_length(model, items(), looks, batch_size=1)
    torch.set_num_threads(3)  # put back by conftest
    together = read_items_of_any_length(model, items(), looks, batch_size=1)
    kept = read_resumably(model, items(), looks, tmp_path, batch_size=1)
    assert torch.get_num_threads() == 3
    for found in (together, kept):
        assert found.keys() == alone.keys()
        for name, values in alone.items():
            np.testing.assert_array_equal(found[name], values)
    assert not any(point.fns for point in hook_points(model).values())


def test_what_an_interruption_left_is_not_read_again(model, tmp_path):
    looks, seen = Looks(points=(FINAL,)), []

    def stop(n: int) -> None:
        seen.append(n)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_resumably(model, items(), looks, tmp_path, batch_size=2, on_items=stop)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 2
    other = read_resumably(model, items(), looks, tmp_path / "other", batch_size=4)
    for name in kept:  # left by a run with another batch size
        (tmp_path / "other" / name).write_bytes((tmp_path / name).read_bytes())
    (tmp_path / "other" / "readings.npz").unlink()
    again = read_resumably(model, items(), looks, tmp_path / "other", batch_size=4)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["readings.npz"]
    for name, values in other.items():
        np.testing.assert_array_equal(again[name], values)
    (tmp_path / "other" / "readings.npz").unlink()
    (tmp_path / "other").rmdir()
    found = read_resumably(model, items(), looks, tmp_path, batch_size=2)
    assert [path.name for path in tmp_path.iterdir()] == ["readings.npz"]
    straight = read_items_of_any_length(model, items(), looks, batch_size=2)
    for again in (found, read_resumably(model, items(), looks, tmp_path)):
        assert again.keys() == straight.keys()
        for name, values in straight.items():
            np.testing.assert_array_equal(again[name], values)


def test_logits_measured_a_row_at_a_time_are_those_measured_at_once(monkeypatch):
    logits, targets = torch.randn(3, 5, 11), torch.randint(11, (3, 5))
    at_once = evaluate.measure_logits(logits, targets)
    monkeypatch.setattr(evaluate, "MAX_PENDING_LOGITS", 1)
    torch.testing.assert_close(evaluate.measure_logits(logits, targets), at_once)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(3, 5)
    torch.testing.assert_close(at_once[..., 0], loss)
