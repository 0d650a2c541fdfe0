"""Sentence encoders: the mean over a text's own tokens, texts cut to what is read, and mistakes as one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="sentence encoders need transformers (extra: hub)")
import transformers
from hub_example import WORDS, save_hub_model, save_tokenizer

from sparsetrain.adapters.sentences import SentenceEncoder
from sparsetrain.curriculum.scoring import sentence_vectors

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10", "w1 w2 w3"]


def save_bert(folder: Path, *, pad: bool = True, model: type = transformers.BertModel, n_positions: int = 8) -> Path:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=n_positions
    )  # fmt: skip
    made = model(config)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    made.save_pretrained(folder)
    save_tokenizer(folder, WORDS, **({"pad_token": "w59"} if pad else {}))
    return folder


def by_hand(folder: Path, text: str) -> np.ndarray:
    """One text alone, without padding."""
    encoder = transformers.BertModel.from_pretrained(folder).eval()
    ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
    with torch.no_grad():
        return encoder(input_ids=ids).last_hidden_state[0].double().mean(0).numpy()


def test_the_mean_is_over_a_texts_own_tokens(tmp_path):
    encoder = SentenceEncoder.load(str(save_bert(tmp_path / "bert")))
    vectors = encoder.vectors(TEXTS)
    assert vectors.shape == (4, 16) and len(encoder.weights_sha256) == 64
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert vector == pytest.approx(by_hand(tmp_path / "bert", text), abs=1e-5)


def test_a_text_is_cut_to_what_the_encoder_reads(tmp_path):
    long = " ".join(f"w{i}" for i in range(20))
    (vector,) = SentenceEncoder.load(str(save_bert(tmp_path / "bert"))).vectors([long])
    assert vector == pytest.approx(by_hand(tmp_path / "bert", " ".join(long.split()[:8])), abs=1e-5)


def test_what_was_read_is_kept_and_batches_change_nothing(tmp_path, monkeypatch):
    name = str(save_bert(tmp_path / "bert"))
    one = sentence_vectors(name, TEXTS, tmp_path / "one", batch_size=1)
    assert one == pytest.approx(sentence_vectors(name, TEXTS, tmp_path / "all", batch_size=4), abs=1e-6)
    monkeypatch.setattr(SentenceEncoder, "vectors", lambda self, texts: pytest.fail("read again"))
    assert np.array_equal(sentence_vectors(name, TEXTS, tmp_path / "one", batch_size=1), one)


def test_a_head_that_is_not_used_may_be_missing_and_a_weight_may_not(tmp_path):
    save_bert(tmp_path / "masked", model=transformers.BertForMaskedLM)  # has no pooler
    assert SentenceEncoder.load(str(tmp_path / "masked")).vectors(["w1"]).shape == (1, 16)
    save_bert(tmp_path / "half")
    config = transformers.BertConfig.from_pretrained(tmp_path / "half", num_hidden_layers=3)
    config.save_pretrained(tmp_path / "half")
    with pytest.raises(
        ValueError, match=r"similarity=hf:.*half could not be loaded: 16 weights of the model are not in its files"
    ):
        SentenceEncoder.load(str(tmp_path / "half"))


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    no_filler = save_bert(tmp_path / "no_filler", pad=False)
    save_hub_model(tmp_path / "bare").joinpath("tokenizer.json").unlink()
    (tmp_path / "bare" / "tokenizer_config.json").unlink()
    for name, words in (
        (str(tmp_path / "nowhere"), "no such folder"),
        (str(tmp_path / "empty"), "the folder has no config.json"),
        ("", "names no model"),
        (str(no_filler), "no token to fill texts up with"),
        (str(tmp_path / "bare"), "could not be loaded: there is no tokenizer beside the model"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            SentenceEncoder.load(name)
        assert "\n" not in str(error.value) and str(error.value).startswith("similarity=hf:")


def test_loading_says_nothing(tmp_path, capsys):
    save_bert(tmp_path / "masked", model=transformers.BertForMaskedLM)
    capsys.readouterr()
    SentenceEncoder.load(str(tmp_path / "masked"))
    out, err = capsys.readouterr()
    assert not out and not err
