"""Training steps on torch, for `steps.py`: nanoGPT's own model, or transformers' of a shape.

Runs in any interpreter that has torch and, but for nanoGPT, transformers. On CUDA the arithmetic of bfloat16 is
autocast's and AdamW is the fused one, as nanoGPT's training script has it.
"""

import argparse
import contextlib
import sys

import torch
from steps import RATE, Shape
from turns import resident_peak, serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def nanogpt(shape: Shape, folder: str) -> torch.nn.Module:
    """Returns nanoGPT's model, from a clone of its repository."""
    sys.path.insert(0, folder)
    from model import GPT, GPTConfig

    assert shape.family == "gpt" and shape.hidden == 4 * shape.width
    return GPT(
        GPTConfig(
            block_size=shape.length,
            vocab_size=shape.vocabulary,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_embd=shape.width,
            dropout=0.0,
            bias=False,
        )
    )


def transformers_model(shape: Shape) -> torch.nn.Module:
    """Returns the model of transformers that `steps_lmjax.py` has the same shape of."""
    import transformers

    common = {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.hidden,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.length,
        "attn_implementation": "sdpa",
        "pad_token_id": None,
    }
    if shape.family == "llama":
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                **common, num_key_value_heads=shape.kv_heads or shape.heads, tie_word_embeddings=True, use_cache=False
            )
        )
    if shape.family == "bert":
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return transformers.BertForMaskedLM(transformers.BertConfig(**common, **dropout, type_vocab_size=1))
    if shape.family == "modernbert":
        # Its own way of training: unscored positions do not reach the head.
        return transformers.ModernBertForMaskedLM(
            transformers.ModernBertConfig(**common, sparse_prediction=True, reference_compile=False)
        )
    if shape.family == "t5":
        return transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                d_model=shape.width,
                d_kv=shape.width // shape.heads,
                d_ff=shape.hidden,
                num_layers=shape.layers,
                num_heads=shape.heads,
                vocab_size=shape.vocabulary,
                dropout_rate=0.0,
                use_cache=False,
                decoder_start_token_id=0,
            )
        )
    raise SystemExit(f"transformers: no model for {shape.family}")


def batches(shape: Shape, text: torch.Tensor):
    """Yields endless batches, drawn from a text and masked on its device, as keyword arguments of the model."""
    rows, length = shape.batch, shape.length

    def windows(size: int) -> torch.Tensor:
        starts = torch.randint(len(text) - size, (rows, 1), device=text.device)
        return text[starts + torch.arange(size, device=text.device)]

    mask_id = shape.vocabulary - 1
    while True:
        if shape.family in ("bert", "modernbert"):
            ids = windows(length)
            chosen, kind = torch.rand(ids.shape, device=ids.device) < RATE, torch.rand(ids.shape, device=ids.device)
            labels = torch.where(chosen, ids, -100)
            ids = torch.where(chosen & (kind < 0.8), mask_id, ids)
            random = torch.randint_like(ids, shape.vocabulary - 1)
            yield {"input_ids": torch.where(chosen & (kind >= 0.9), random, ids), "labels": labels}
        elif shape.family == "t5":
            # Spans are not cut here, which costs torch nothing; lmjax cuts them within its step.
            yield {"input_ids": windows(length), "labels": windows(shape.target_length)}
        elif shape.family == "llama":
            # transformers shifts the labels by one, so a row that predicts T tokens has T + 1; T are near enough.
            ids = windows(length)
            yield {"input_ids": ids, "labels": ids}
        else:
            ids = windows(length + 1)
            yield {"idx": ids[:, :-1], "targets": ids[:, 1:].contiguous()}


def main() -> None:
    """Builds the model, takes a few steps and serves blocks of steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", type=Shape.from_json)
    parser.add_argument("--nanogpt", help="a clone of nanoGPT, to run its model")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    shape = options.shape
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    with torch.device(DEVICE):
        model = nanogpt(shape, options.nanogpt) if options.nanogpt else transformers_model(shape)
    model.to(DEVICE).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=DEVICE == "cuda")
    run = torch.compile(model) if options.compile else model
    batch = batches(shape, torch.randint(5, shape.vocabulary - 1, (1_000_000,), device=DEVICE))
    autocast = shape.dtype == "bfloat16"

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16) if autocast else contextlib.nullcontext():
            out = run(**next(batch))
            loss = out[1] if options.nanogpt else out.loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def steps(count: int) -> None:
        for _ in range(count):
            step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    steps(3)
    facts = {"parameters": sum(one.numel() for one in parameters), "versions": f"torch {torch.__version__}"}
    if not options.nanogpt:
        import transformers

        facts["versions"] += f", transformers {transformers.__version__}"
    serve(steps, facts=facts, peak=torch.cuda.max_memory_allocated if DEVICE == "cuda" else resident_peak)


if __name__ == "__main__":
    main()
