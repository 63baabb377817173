//! Hugging Face's words for architectures and fields.

use crate::Family;
use crate::check::Field;

/// `model_type`, the class in `architectures`, and the family.
const ARCHITECTURES: [(Family, &str, &str); 11] = [
    (Family::Llama, "llama", "LlamaForCausalLM"),
    (Family::Mistral, "mistral", "MistralForCausalLM"),
    (Family::Mixtral, "mixtral", "MixtralForCausalLM"),
    (Family::Gemma, "gemma", "GemmaForCausalLM"),
    (Family::Gemma2, "gemma2", "Gemma2ForCausalLM"),
    (Family::Gemma3, "gemma3_text", "Gemma3ForCausalLM"),
    (Family::Qwen2, "qwen2", "Qwen2ForCausalLM"),
    (Family::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    (Family::Qwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM"),
    (Family::Olmoe, "olmoe", "OlmoeForCausalLM"),
    (Family::Phi3, "phi3", "Phi3ForCausalLM"),
];

/// The family with this `model_type`.
pub(super) fn family(model_type: &str) -> Option<Family> {
    ARCHITECTURES.iter().find(|a| a.1 == model_type).map(|a| a.0)
}

/// `model_type` and class of a family.
pub(super) fn architecture(family: Family) -> (&'static str, &'static str) {
    let found = ARCHITECTURES.iter().find(|a| a.0 == family);
    found.map_or(("llama", "LlamaForCausalLM"), |a| (a.1, a.2))
}

/// The key of the gate's nonlinearity.
pub(super) fn activation(family: Family) -> &'static str {
    match family {
        Family::Gemma2 | Family::Gemma3 => "hidden_activation",
        _ => "hidden_act",
    }
}

/// The key of an expert's (or the only) inner width.
pub(super) fn ffn_size(family: Family) -> &'static str {
    match family {
        Family::Qwen3Moe => "moe_intermediate_size",
        _ => "intermediate_size",
    }
}

/// The key of the number of experts.
pub(super) fn num_experts(family: Family) -> &'static str {
    match family {
        Family::Mixtral => "num_local_experts",
        _ => "num_experts",
    }
}

/// The key of a field.
pub(super) fn field(family: Family, field: Field) -> &'static str {
    match field {
        Field::VocabSize => "vocab_size",
        Field::HiddenSize => "hidden_size",
        Field::NumLayers => "num_hidden_layers",
        Field::MaxSeqLen => "max_position_embeddings",
        Field::NormEps => "rms_norm_eps",
        Field::NumHeads => "num_attention_heads",
        Field::NumKvHeads => "num_key_value_heads",
        Field::HeadDim => "head_dim",
        Field::Scale => "query_pre_attn_scalar",
        Field::LogitSoftcap => "attn_logit_softcapping",
        Field::FinalSoftcap => "final_logit_softcapping",
        Field::FfnSize => ffn_size(family),
        Field::NumExperts => num_experts(family),
        Field::ExpertsPerToken => "num_experts_per_tok",
        Field::Window => "sliding_window",
        Field::LocalPattern => "sliding_window_pattern",
        Field::Theta => "rope_theta",
        Field::LocalTheta => "rope_local_base_freq",
        Field::RotaryDim => "rotary dimensions (head_dim * partial_rotary_factor)",
        Field::RopeScaling => "rope_scaling",
        Field::OriginalMax => "original_max_position_embeddings",
    }
}
