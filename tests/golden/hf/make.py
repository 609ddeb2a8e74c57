"""Makes the reference folders beside this file: tiny random models of transformers, and what they answer.

    python tests/golden/hf/make.py tests/golden/hf [NAME ...]

Needs the extra ``parity``. Weights are rounded to bfloat16 and stored so; the answers are computed in
float32 from those. The folders ``oracle_*`` were not made by this script.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**SIZES, "intermediate_size": 40, "num_key_value_heads": 2, "max_position_embeddings": 48}
MAMBA = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2}
ENCODER = {**SIZES, "intermediate_size": 40, "max_position_embeddings": 24}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 12,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}
DEEPSEEK_YARN = {**YARN, "mscale": 0.8, "mscale_all_dim": 0.6, "beta_fast": 4, "beta_slow": 1}
GPT_OSS_YARN = {**YARN, "beta_fast": 4.0, "original_max_position_embeddings": 24, "truncate": False}
LOCAL_AND_GLOBAL = ["sliding_attention", "full_attention", "sliding_attention"]
VISION = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8,
    "patch_size": 8,
}  # fmt: skip
GPT2_SIZES = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 40, "n_positions": 24}
ROBERTA = {**ENCODER, "type_vocab_size": 1, "max_position_embeddings": 26}
OPT = {**ENCODER, **IDS, "ffn_dim": 40, "word_embed_proj_dim": 32, "pad_token_id": 1, "bos_token_id": 2}
T5_SIZES = {
    "vocab_size": 61, "d_model": 32, "d_kv": 4, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0,
}  # fmt: skip
BART_SIZES = {
    "vocab_size": 61, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 2, "max_position_embeddings": 24,
    "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
DEEPSEEK_SIZES = {
    "num_key_value_heads": 4, "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 7,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
}  # fmt: skip

CASES = {
    "llama3": ("LlamaForCausalLM", {**DECODER, **IDS, "rope_theta": 500.0, "rope_scaling": LLAMA3}),
    "llama_linear": (
        "LlamaForCausalLM",
        {**DECODER, **IDS, "head_dim": 6, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
         "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ),
    "mistral": ("MistralForCausalLM", {**DECODER, **IDS, "sliding_window": 5, "head_dim": 8}),
    "qwen2": (
        "Qwen2ForCausalLM",
        {**DECODER, **IDS, "rope_scaling": YARN, "use_sliding_window": True, "sliding_window": 6,
         "max_window_layers": 1, "tie_word_embeddings": True},
    ),
    "qwen3": ("Qwen3ForCausalLM", {**DECODER, **IDS, "head_dim": 12}),
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        {**ENCODER, **IDS,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5}},
    ),
    "gpt_neox_sequential": (
        "GPTNeoXForCausalLM", {**ENCODER, **IDS, "use_parallel_residual": False, "hidden_act": "gelu_fast"},
    ),
    "gemma2": (
        "Gemma2ForCausalLM",
        {**DECODER, **IDS, "head_dim": 12, "query_pre_attn_scalar": 10, "sliding_window": 5,
         "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3_text": (
        "Gemma3ForCausalLM",
        {**DECODER, **IDS, "num_hidden_layers": 3, "head_dim": 12, "query_pre_attn_scalar": 10, "sliding_window": 5,
         "layer_types": LOCAL_AND_GLOBAL,
         "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                             "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}}},
    ),
    "olmo2": ("Olmo2ForCausalLM", {**DECODER, **IDS}),
    "gemma": ("GemmaForCausalLM", {**DECODER, **IDS, "head_dim": 12}),
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {"text_config": {**DECODER, **IDS, "head_dim": 12, "sliding_window": 5, "sliding_window_pattern": 2},
         "vision_config": VISION, "mm_tokens_per_image": 1, "image_token_index": 3, "boi_token_index": 3,
         "eoi_token_index": 4},
    ),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", {**GPT2_SIZES, **IDS}),
    "gpt_bigcode_heads": ("GPTBigCodeForCausalLM", {**GPT2_SIZES, **IDS, "multi_query": False}),
    "olmo": ("OlmoForCausalLM", {**DECODER, **IDS, "clip_qkv": 0.5}),
    "olmo3": (
        "Olmo3ForCausalLM",
        {**DECODER, **IDS, "num_hidden_layers": 3, "sliding_window": 5, "layer_types": LOCAL_AND_GLOBAL,
         "rope_theta": 500_000.0, "rope_scaling": YARN},
    ),
    "phi": ("PhiForCausalLM", {**DECODER, **IDS}),
    "phi3": ("Phi3ForCausalLM", {**DECODER, **IDS, "sliding_window": 5, "partial_rotary_factor": 0.5}),
    "smollm3": ("SmolLM3ForCausalLM", {**DECODER, **IDS, "num_hidden_layers": 3, "no_rope_layer_interval": 2}),
    "starcoder2": ("Starcoder2ForCausalLM", {**DECODER, **IDS, "sliding_window": 5}),
    "mixtral": ("MixtralForCausalLM", {**DECODER, **IDS, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {**DECODER, **IDS, "head_dim": 8, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2,
         "norm_topk_prob": True},
    ),
    "bert": ("BertForPreTraining", {**ENCODER, **IDS}),
    "roberta": ("RobertaForMaskedLM", {**ROBERTA}),
    "electra_generator": ("ElectraForMaskedLM", {**ENCODER, **IDS, "embedding_size": 16}),
    "electra_discriminator": ("ElectraForPreTraining", {**ENCODER, **IDS, "embedding_size": 16}),
    "albert": ("AlbertForPreTraining", {**ENCODER, **IDS, "num_hidden_layers": 3, "embedding_size": 16}),
    "modernbert": (
        "ModernBertForMaskedLM",
        {**ENCODER, **IDS, "num_hidden_layers": 4, "local_attention": 6, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "t5_v1_0": ("T5ForConditionalGeneration", {**T5_SIZES, "feed_forward_proj": "relu"}),
    "t5_v1_1": (
        "T5ForConditionalGeneration", {**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": ("MT5ForConditionalGeneration", {**T5_SIZES}),
    "umt5": ("UMT5ForConditionalGeneration", {**T5_SIZES, "num_decoder_layers": 2}),
    "bart": ("BartForConditionalGeneration", {**BART_SIZES}),
    "bert_untied": ("BertForMaskedLM", {**ENCODER, **IDS, "num_hidden_layers": 1, "tie_word_embeddings": False}),
    "bert_base_model": ("BertModel", {**ENCODER, **IDS, "num_hidden_layers": 1}),
    "xlm_roberta": ("XLMRobertaForMaskedLM", {**ROBERTA, "num_hidden_layers": 1}),
    "camembert": ("CamembertForMaskedLM", {**ROBERTA, "num_hidden_layers": 1, "tie_word_embeddings": False}),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"vocab_size": 61, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40, "max_position_embeddings": 24},
    ),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {**IDS, "vocab_size": 61, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 40,
         "max_position_embeddings": 24, "attention_types": [[["global", "local"], 1], [["local"], 1]],
         "window_size": 5},
    ),
    "gptj": (
        "GPTJForCausalLM",
        {**IDS, "vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 40, "n_positions": 24,
         "rotary_dim": 6},
    ),
    "opt": ("OPTForCausalLM", {**OPT}),
    "opt_post_norm": ("OPTForCausalLM", {**OPT, "num_hidden_layers": 1, "do_layer_norm_before": False}),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {**DECODER, **IDS, **DEEPSEEK_SIZES, "num_hidden_layers": 3, "q_lora_rank": 12, "rope_scaling": DEEPSEEK_YARN,
         "n_group": 4, "topk_group": 2, "n_shared_experts": 2},
    ),
    "deepseek_v3_plain_queries": (
        "DeepseekV3ForCausalLM",
        {**DECODER, **IDS, **DEEPSEEK_SIZES, "q_lora_rank": None, "n_group": 1, "topk_group": 1,
         "n_shared_experts": 1, "rope_interleave": False, "norm_topk_prob": False},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        {**DECODER, **IDS, "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2,
         "sliding_window": 5, "head_dim": 12,
         "rope_parameters": {**GPT_OSS_YARN, "rope_theta": 500.0}},
    ),
    "granite": (
        "GraniteForCausalLM",
        {**DECODER, **IDS, "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.6,
         "logits_scaling": 1.5},
    ),
    "mamba2": (
        "Mamba2ForCausalLM",
        {**MAMBA, **IDS, "head_dim": 8, "num_heads": 8, "state_size": 6, "n_groups": 2,
         "chunk_size": 8, "conv_kernel": 3},
    ),
    "mamba2_tied": (
        "Mamba2ForCausalLM",
        {**MAMBA, **IDS, "head_dim": 16, "num_heads": 4, "state_size": 6, "n_groups": 1,
         "chunk_size": 8, "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": True},
    ),
    "modernbert_decoder": (
        "ModernBertDecoderForCausalLM",
        {**ENCODER, **IDS, "num_hidden_layers": 4, "local_attention": 6, "cls_token_id": 1, "sep_token_id": 2},
    ),
}  # fmt: skip
"""Name of a folder: class of transformers, and its configuration."""


def build(name: str, seed: int = 0) -> transformers.PreTrainedModel:
    """The model of a case, every parameter random, so that none can be forgotten unnoticed."""
    architecture, options = CASES[name]
    kind = getattr(transformers, architecture)
    torch.manual_seed(seed)
    model = kind(kind.config_class(**options)).eval()
    if name in ("t5_v1_1", "mt5"):
        # Its checkpoints have a head of its own, though the class would tie it.
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.copy_(parameter.bfloat16())
        if name == "bart":
            model.final_logits_bias.copy_((0.1 * torch.randn_like(model.final_logits_bias)).bfloat16())
        for tensor_name, tensor in model.named_buffers():
            if tensor_name.endswith("e_score_correction_bias"):
                tensor.copy_((0.1 * torch.randn_like(tensor)).bfloat16())
        if name == "gpt_oss":
            # Large enough for both sides of the clamp.
            for layer in model.model.layers:
                layer.mlp.experts.gate_up_proj.mul_(8)
    return model


def inputs(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Token ids that spell no special token, the second row padded at its end."""
    rng = np.random.default_rng(seed)
    mask = np.ones((2, 16), np.int64)
    mask[1, 11:] = 0
    found = {"input_ids": rng.integers(5, 61, (2, 16)), "attention_mask": mask}
    if name.startswith(("bert", "albert", "electra")):
        found["token_type_ids"] = (np.arange(16) >= np.array([[7], [4]])).astype(np.int64)
    if name.startswith(("t5", "mt5", "umt5", "bart")):
        found["decoder_input_ids"] = rng.integers(5, 61, (2, 9))
    return found


def answers(model: transformers.PreTrainedModel, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model says to the inputs: ``logits``, and ``pair_logits`` where it classifies pairs; else ``states``."""
    with torch.no_grad():
        said = model(**{key: torch.as_tensor(value) for key, value in given.items()})
    answer = next(key for key in ("prediction_logits", "logits", "last_hidden_state") if hasattr(said, key))
    found = {"states" if answer == "last_hidden_state" else "logits": getattr(said, answer).float().numpy()}
    for pair in ("seq_relationship_logits", "sop_logits"):
        if (value := getattr(said, pair, None)) is not None:
            found["pair_logits"] = value.numpy()
    return found


def main() -> None:
    """Writes the folders."""
    out, names = pathlib.Path(sys.argv[1]), sys.argv[2:] or list(CASES)
    for name in names:
        model, given = build(name), inputs(name)
        expected = answers(model, given)
        model.bfloat16().save_pretrained(out / name)
        (out / name / "generation_config.json").unlink(missing_ok=True)
        np.savez_compressed(out / name / "expected.npz", **given, **expected)
        spread = max(float(np.abs(answer).max()) for answer in expected.values())
        print(f"{name:24}{sum(p.numel() for p in model.parameters()):>8} parameters, largest answer {spread:.2f}")


if __name__ == "__main__":
    main()
