//! `config.json`: a GPT-2's sizes, and the settings that change what it computes.
//!
//! Settings that do not change the logits (dropout, which only training applies; names, versions, special tokens) are
//! passed over.

use super::ModelError;
use potluck_train::gpt::GptConfig;
use serde_json::{Value, json};

pub(super) fn to_json(config: &GptConfig) -> Vec<u8> {
    let value = json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocabulary,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": null,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": true,
        "scale_attn_by_inverse_layer_idx": false,
        "reorder_and_upcast_attn": false,
        "add_cross_attention": false,
        "tie_word_embeddings": true,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": null,
        "eos_token_id": null,
        "torch_dtype": "float32",
    });
    format!("{value:#}\n").into_bytes()
}

/// The sizes, with biases, since the layout has them.
pub(super) fn from_json(config: &Value) -> Result<GptConfig, ModelError> {
    let width = size(config, "n_embd")?;
    // A missing setting has the value that GPT-2's configuration gives it.
    let settings: [(&'static str, Value, &[Value]); 8] = [
        ("model_type", Value::Null, &[json!("gpt2")]),
        ("activation_function", json!("gelu_new"), &[json!("gelu_new"), json!("gelu_pytorch_tanh")]),
        ("layer_norm_epsilon", json!(1e-5), &[json!(1e-5)]),
        ("n_inner", Value::Null, &[Value::Null, json!(width.saturating_mul(4))]),
        ("scale_attn_weights", json!(true), &[json!(true)]),
        ("scale_attn_by_inverse_layer_idx", json!(false), &[json!(false)]),
        ("add_cross_attention", json!(false), &[json!(false)]),
        ("tie_word_embeddings", json!(true), &[json!(true)]),
    ];
    for (field, usual, implemented) in settings {
        let found = config.get(field).unwrap_or(&usual);
        if !implemented.contains(found) {
            let expected = implemented.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
            return Err(ModelError::Config { field, found: short(found), expected });
        }
    }
    let sizes = GptConfig {
        vocabulary: size(config, "vocab_size")?,
        context: size(config, "n_positions")?,
        layers: size(config, "n_layer")?,
        heads: size(config, "n_head")?,
        width,
        bias: true,
    };
    sizes.check()?;
    Ok(sizes)
}

fn size(config: &Value, field: &'static str) -> Result<usize, ModelError> {
    let found = config.get(field).unwrap_or(&Value::Null);
    let size = found.as_u64().and_then(|size| usize::try_from(size).ok());
    size.ok_or_else(|| ModelError::Config { field, found: short(found), expected: "a whole number".into() })
}

/// A value for a message.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None if value.is_null() => "missing".to_owned(),
        None => text,
    }
}
