"""What reading items costs: every hook point read with `read_items_of_any_length` against the plain forward pass on the same items.

    python scripts/bench_items.py [--threads 1] [--runs 7]
    python scripts/bench_items.py --model gguf:<file>        or hf:<folder or hub name>, or the folder of a run

Without a model one of the size of SmolLM2-135M is built on the spot (30 layers, width 576, MLP 1536, vocabulary 49,152; random weights). Items
are random tokens, 24, 64 and 128 of them, in batches of 8; measures are the default ones. Before anything is timed, the losses that were
read must be those of the plain pass. Reading costs 1 / speedup plain passes.
"""

import torch
from torch import nn

from sparsetrain.adapters import load_language_model
from sparsetrain.entry import quieten
from sparsetrain.hooks import hook_points
from sparsetrain.kernels.bench import Bench, parse_arguments
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.representation.evaluate import evaluating, row_losses
from sparsetrain.representation.items import Item, Looks, read_items_of_any_length

LENGTHS = (24, 64, 128)
BATCH, N_BATCHES = 8, 2
MODEL = ModelConfig(
    d_vocab=49152, n_layer=30, d_model=576, d_mlp=1536, d_head=64, n_ctx=128, abs_topk={}, sink=False, bigram=False
)


def model_of(name: str, device: str, trust_remote_code: bool) -> tuple[nn.Module, int, int | None]:
    """The model, its vocabulary, and the most positions it can read."""
    if name:
        loaded = load_language_model(name, device=device, trust_remote_code=trust_remote_code)
        return loaded.module, loaded.tokenizer.d_vocab, loaded.n_ctx
    torch.manual_seed(0)
    return Transformer(MODEL).to(device), MODEL.d_vocab, MODEL.n_ctx


def main() -> None:
    """Prints the table and the JSON line."""
    more = {
        "model": "hf:, gguf: or a run's folder; empty: built on the spot",
        "trust_remote_code": "true: run the code that comes with an hf: model",
    }
    arguments = parse_arguments(__doc__ or "", more=more)
    device = arguments.device
    quieten()
    model, d_vocab, n_ctx = model_of(arguments.model, device, arguments.trust_remote_code == "true")
    points = {name: point for name, point in hook_points(model).items() if point.width > 1}
    n_layer = len({name.split(".")[1] for name in points if name.startswith("blocks.")})
    size = f"{n_layer}x{next(point.width for point in points.values() if point.kind == 'resid')}"
    looks = Looks(points=tuple(points))
    bench = Bench(name="items", device=device, runs=arguments.runs)
    for length in (n for n in LENGTHS if n_ctx is None or n <= n_ctx + 1):
        generator = torch.Generator().manual_seed(length)
        rows = torch.randint(d_vocab, (N_BATCHES * BATCH, length), generator=generator)
        items = [Item(tokens=tuple(row.tolist())) for row in rows]

        def read(_: object, items: list[Item] = items) -> dict[str, object]:
            return dict(read_items_of_any_length(model, items, looks, batch_size=BATCH))

        def plain(_: object, rows: torch.Tensor = rows) -> None:
            with evaluating(model):
                for batch in rows.split(BATCH):
                    model(batch[:, :-1].to(device))

        last = slice(length - 2, length - 1)
        torch.testing.assert_close(
            torch.as_tensor(read(None)["loss|last"]).float(), row_losses(model, rows, BATCH, last), rtol=1e-4, atol=1e-4
        )
        name = f"items:{size}:{length}_tokens:forward"
        bench.measure({name: read}, plain, f"the plain pass ({len(looks.points)} hook points read)")
    bench.report()


if __name__ == "__main__":
    main()
