//! Keys of a `config.json` that do not change what a decoder computes, with the reason.
//!
//! Everything else that is not read is an error: a key that nobody knows may well change the
//! arithmetic. Keys that matter only with certain values are harmless only with the others.

use crate::object::Harmless;

/// Keys beside those that are read.
pub(super) const CONFIG: &[Harmless] = &[
    // Provenance: who wrote the file, from what, with which class.
    Harmless::Any(&[
        "_name_or_path",
        "_commit_hash",
        "name_or_path",
        "architectures",
        "auto_map",
        "model_type",
        "transformers_version",
        "tokenizer_class",
        "unsloth_version",
        "unsloth_fixed",
        "is_llama_config",
        "finetuning_task",
        "task_specific_params",
        "license",
        "transformers.js_config",
        "model_max_length",
        "tokenizer_model_max_length",
        "tokenizer_padding_side",
    ]),
    // Training: initialization, dropout, auxiliary losses, parallelism of pretraining (splitting a
    // product into `pretraining_tp` slices changes rounding only).
    Harmless::Any(&[
        "initializer_range",
        "initializer_factor",
        "attention_dropout",
        "hidden_dropout",
        "embd_pdrop",
        "resid_pdrop",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "output_router_logits",
        "pretraining_tp",
        "gradient_checkpointing",
        "neftune_noise_alpha",
        "max_window_layers",
    ]),
    // How a program runs the model: caches, kernels, what a call returns.
    Harmless::Any(&[
        "use_cache",
        "cache_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_attn_implementation_internal",
        "attn_implementation",
        "_flash_attn_2_enabled",
        "use_flash_attention",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "use_return_dict",
        "torchscript",
        "use_bfloat16",
        "tf_legacy_loss",
        "chunk_size_feed_forward",
        "max_sequence_length", // old LLaMA files; transformers reads max_position_embeddings
    ]),
    // Generation settings that old files carry; `generation_config.json` is where they are read.
    Harmless::Any(&[
        "max_length",
        "min_length",
        "max_new_tokens",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "output_scores",
        "return_dict_in_generate",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
    ]),
    // Other heads and tokens of other kinds of model.
    Harmless::Any(&[
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "prefix",
        "sep_token_id",
        "unk_token_id",
        "decoder_start_token_id",
        "image_token_index",
        "image_token_id",
        "vision_config",
    ]),
    // Features that a decoder of these families lacks; harmless only while off.
    Harmless::IfOff(&[
        "is_encoder_decoder",
        "is_decoder",
        "add_cross_attention",
        "cross_attention_hidden_size",
        "tie_encoder_decoder",
        "pruned_heads",
        "use_bidirectional_attention",
        "use_mrope",
        "rope_interleaved",
        "clip_qkv",
        "lm_head_bias",
        "sliding_window",
        "use_sliding_window",
        "shared_expert_intermediate_size",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "num_nextn_predict_layers",
    ]),
    // Phi-4-mini's factors that leave everything as it is at 1.
    Harmless::IfOn(&["full_attn_mod", "interpolate_factor"]),
];

/// Keys of a multimodal file beside its `text_config`.
pub(super) const MULTIMODAL: &[Harmless] = &[
    Harmless::Any(&[
        // Read elsewhere: the vision tower and where images stand among the tokens.
        "vision_config",
        "mm_tokens_per_image",
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
        "boi_token_id",
        "eoi_token_id",
        "image_token_id",
        // As above: provenance, training, running.
        "_name_or_path",
        "_commit_hash",
        "architectures",
        "auto_map",
        "model_type",
        "transformers_version",
        "unsloth_version",
        "unsloth_fixed",
        "initializer_range",
        "use_cache",
        "cache_implementation",
        "_attn_implementation_autoset",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
    ]),
    Harmless::IfOff(&["is_encoder_decoder"]),
];

/// Settings of GPTQ's algorithm and of programs that ran it; the tensors hold the outcome.
pub(super) const GPTQ: &[Harmless] = &[
    Harmless::Any(&[
        "quant_method",
        "sym", // the zero points stored say it
        "static_groups",
        "damp_percent",
        "damp_auto_increment",
        "true_sequential",
        "mse",
        "model_name_or_path",
        "model_file_base_name",
        "meta",
        "quantizer",
        "dataset",
        "tokenizer",
        "batch_size",
        "backend",
        "block_name_to_quantize",
        "cache_block_outputs",
        "disable_exllama",
        "exllama_config",
        "use_exllama",
        "use_cuda_fp16",
        "max_input_length",
        "model_seqlen",
        "module_name_preceding_first_block",
        "modules_in_block_to_quantize", // a module is quantized if it has qweight
        "pad_token_id",
        "pack_impl",
        "offload_to_disk",
    ]),
    Harmless::IfOff(&["is_marlin_format", "lm_head", "dynamic", "rotation"]),
];

/// Settings of programs that ran AWQ.
pub(super) const AWQ: &[Harmless] = &[Harmless::Any(&[
    "quant_method",
    "modules_to_not_convert", // a module is quantized if it has qweight
    "modules_to_fuse",
    "do_fuse",
    "fuse_max_seq_len",
    "backend",
    "exllama_config",
])];

/// bitsandbytes: how to compute, and what each quantized tensor's `quant_state` says better.
pub(super) const BITSANDBYTES: &[Harmless] = &[Harmless::Any(&[
    "quant_method",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
    "llm_int8_skip_modules", // a module is quantized if it has the extra tensors
    "llm_int8_threshold",    // splits outliers off the activations: precision only
])];

/// FP8: which modules stayed dense (the tensors say it) and how scales were rounded.
pub(super) const FP8: &[Harmless] = &[Harmless::Any(&[
    "quant_method",
    "modules_to_not_convert",
    "ignored_layers",
    "scale_fmt",
    "dequantize",
])];
