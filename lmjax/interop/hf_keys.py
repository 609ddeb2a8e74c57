"""Keys of ``config.json`` that change no hidden state and no logit, grouped by the reason."""

import re

BOOKKEEPING = frozenset(
    (
        "architectures", "attn_implementation", "auto_map", "chunk_size_feed_forward", "classifier_dropout",
        "cross_attention_hidden_size", "dtype", "experts_implementation", "finetuning_task", "gradient_checkpointing",
        "id2label", "is_encoder_decoder", "label2id", "model_type", "num_labels", "output_attentions",
        "output_hidden_states", "output_past", "problem_type", "return_dict", "task_specific_params",
        "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "torch_dtype", "torchscript",
        "use_bfloat16", "use_cache",
    )
)  # fmt: skip
"""Keys on how a file was saved, how a model is run, and what the heads for other tasks are called."""

GENERATION = frozenset(
    (
        "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "bad_words_ids",
        "begin_suppress_tokens", "bos_token_id", "cache_config", "cache_implementation", "cls_token_id",
        "compile_config", "constraints", "decoder_start_token_id", "disable_compile", "diversity_penalty", "do_sample",
        "dola_layers", "early_stopping", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "eos_token_id",
        "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty", "force_bos_token_to_be_generated",
        "force_words_ids", "forced_bos_token_id", "forced_eos_token_id", "guidance_scale", "is_assistant",
        "length_penalty", "low_memory", "mask_token_id", "max_length", "max_matching_ngram_size", "max_new_tokens",
        "max_time", "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_assistant_tokens",
        "num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences", "output_logits",
        "output_scores", "pad_token_id", "penalty_alpha", "prefill_chunk_size", "prefix", "prompt_lookup_num_tokens",
        "remove_invalid_values", "renormalize_logits", "repetition_penalty", "return_dict_in_generate",
        "sep_token_id", "sequence_bias", "stop_strings", "suppress_tokens", "target_lookbehind", "temperature",
        "token_healing", "top_h", "top_k", "top_p", "typical_p", "unk_token_id", "watermarking_config",
    )
)  # fmt: skip
"""Keys on how text is sampled, and the ids of special tokens."""

TRAINING = re.compile(
    r"dropout|pdrop|layerdrop|drop_rate|drop_path|jitter_noise|"
    r"^init_|^initializer_|_init_|loss_coef$|^output_router_logits$|^neftune_noise_alpha$|^label_smoothing|^sparse_pred|"
    r"^use_fused_|^max_grad|^mask_(time|feature)"
)
"""Matches the names of dropout rates, of initial values and of losses, which only training uses."""

NOT_READ = frozenset(
    (
        # Keys of the libraries with which the models were trained or prepared.
        "add_bias_logits", "directionality", "down_scale_factor", "gap_size", "head_dim_original", "is_llama_config",
        "jax", "layers_to_keep", "max_seq_len", "max_sequence_length", "model_max_length", "n_ctx", "n_special",
        "name_or_path", "net_structure_type", "num_memory_blocks", "onnx", "output_embeddings", "pooler_fc_size",
        "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
        "predict_special_tokens", "pretraining_tp", "reference_compile", "repad_logits_with_grad", "rope_interleaved",
        "rotary", "scalable_attention", "seq_length", "sequence_length", "tie_weights_", "tokenizer_model",
        "use_flash_attention", "use_flash_attn", "use_mrope",
        # Keys that the code of other families reads.
        "activation", "activation_function", "attention_bias", "attention_layers", "attention_types",
        "attn_logit_softcapping", "bias", "classifier_activation", "classifier_bias", "classifier_pooling",
        "decoder_attention_heads", "decoder_bias", "decoder_ffn_dim", "decoder_layers", "decoder_sparse_step",
        "deterministic_flash_attn", "dim", "do_layer_norm_before", "embedding_size", "enable_bias",
        "encoder_attention_heads", "encoder_ffn_dim", "encoder_layers", "feed_forward_proj", "ffn_dim",
        "final_logit_softcapping", "global_attn_every_n_layers", "global_rope_theta", "hidden_act",
        "hidden_activation", "hidden_dim", "inner_group_num", "intermediate_size", "is_decoder",
        "layer_norm_elementwise_affine", "layer_norm_eps", "layer_norm_epsilon", "layer_types", "local_attention",
        "local_rope_theta", "max_position_embeddings", "max_window_layers", "mlp_bias", "mlp_only_layers",
        "moe_intermediate_size", "n_inner", "n_positions", "norm_bias", "norm_eps", "norm_topk_prob", "num_experts",
        "num_experts_per_tok", "num_hidden_groups", "num_key_value_heads", "num_local_experts",
        "partial_rotary_factor", "position_embedding_type", "qk_layernorm", "qk_norm", "qkv_bias",
        "query_pre_attn_scalar", "relative_attention_max_distance", "relative_attention_num_buckets",
        "reorder_and_upcast_attn", "rms_norm_eps", "rope_local_base_freq", "rope_parameters", "rope_scaling",
        "rope_theta", "rotary_dim", "rotary_emb_base", "rotary_pct", "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights", "scale_embedding", "sinusoidal_pos_embds", "sliding_window", "sliding_window_pattern",
        "summary_activation", "summary_proj_to_labels", "summary_type", "summary_use_proj", "type_vocab_size",
        "use_parallel_residual", "use_sliding_window", "window_size", "word_embed_proj_dim",
    )
)  # fmt: skip
"""Keys found in published files of families whose code in transformers never reads them.

A family that does read such a key looks it up, and the key then counts as accounted for.
"""

NOTES = re.compile(r"^_|^unsloth|^transformers|version$|license|author")
"""Matches the names of notes: those of transformers to itself, which begin with an underscore, and the publisher's."""


def is_inert(key: str) -> bool:
    """Returns whether a key changes nothing in any family, because it is about bookkeeping, sampling, or a note."""
    return key in BOOKKEEPING or key in GENERATION or bool(NOTES.search(key))
