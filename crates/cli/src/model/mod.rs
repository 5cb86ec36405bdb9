//! Model folders in Hugging Face's GPT-2 layout: `model.safetensors`, `config.json`, `tokenizer.json`, and
//! `tokenizer_config.json`, which keeps `transformers` from guessing.
//!
//! Linear layers are stored input x output there, output x input in our flat vector. Models without biases are written with
//! biases of zero, since GPT-2 has them; a folder whose biases are all zero becomes a model without biases again: the
//! function is the same, and the vector smaller. Training such a model on does not move its biases.

mod config;
mod error;
mod file;
mod tensors;
mod tokenizer;

pub use error::ModelError;
pub use file::{MAX_JSON_BYTES, MAX_MODEL_BYTES};

use potluck_train::data::Tokenizer;
use potluck_train::gpt::{GptConfig, Kind, Layout, Tensor};
use std::path::Path;

/// Name of the tensors' file.
pub const TENSORS: &str = "model.safetensors";
/// Name of the sizes' file.
pub const CONFIG: &str = "config.json";
/// Name of the tokenizer's file.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the file that says how `transformers` loads the tokenizer.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// What the tensors' names begin with.
const PREFIX: &str = "transformer.";
/// The output head, which is the token embedding.
const HEAD: &str = "lm_head.weight";

/// What a folder holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Sizes.
    pub config: GptConfig,
    /// Parameters in the order of [`Layout`].
    pub parameters: Vec<f32>,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
}

/// Writes a model; the folder is made if it is not there, files of these names are replaced.
///
/// # Errors
/// Sizes, parameters and tokenizer that do not fit each other, or what the system says.
pub fn export(
    folder: &Path,
    config: &GptConfig,
    parameters: &[f32],
    tokenizer: &Tokenizer,
) -> Result<(), ModelError> {
    config.check()?;
    check_vocabulary(config, tokenizer)?;
    let layout = Layout::new(config);
    if parameters.len() != layout.parameters() {
        let (found, expected) = (parameters.len(), layout.parameters());
        return Err(potluck_train::TrainError::Length { found, expected }.into());
    }
    let full = Layout::new(&GptConfig { bias: true, ..*config });
    let mut own = layout.tensors.iter().peekable();
    let mut tensors = Vec::with_capacity(full.tensors.len());
    for tensor in &full.tensors {
        let values = match own.next_if(|own| own.name == tensor.name) {
            Some(own) => transposed(tensor, &parameters[own.range()], false),
            None => vec![0.0; tensor.rows * tensor.cols],
        };
        check_finite(&tensor.name, &values)?;
        tensors.push(tensors::Named {
            name: format!("{PREFIX}{}", tensor.name),
            shape: shape(tensor),
            values,
        });
    }
    file::create_folder(folder)?;
    file::write(&folder.join(CONFIG), &config::to_json(config))?;
    file::write(&folder.join(TOKENIZER), &tokenizer::to_json(tokenizer))?;
    file::write(&folder.join(TOKENIZER_CONFIG), &tokenizer::loader(config.context))?;
    file::write(&folder.join(TENSORS), &tensors::to_bytes(&tensors))
}

/// Writes the tensors of a model that is no language model, by its own names and shapes.
///
/// # Errors
/// Parameters that do not fit the model, or what the system says.
pub fn export_plain(
    folder: &Path,
    model: &potluck_train::Model,
    parameters: &[f32],
) -> Result<(), ModelError> {
    if parameters.len() != model.parameters() {
        let (found, expected) = (parameters.len(), model.parameters());
        return Err(potluck_train::TrainError::Length { found, expected }.into());
    }
    let named = |tensor: Tensor| {
        let values = parameters[tensor.range()].to_vec();
        check_finite(&tensor.name, &values)?;
        let shape = if tensor.rows == 1 { vec![tensor.cols] } else { vec![tensor.rows, tensor.cols] };
        Ok(tensors::Named { name: tensor.name, shape, values })
    };
    let tensors = model.tensors().into_iter().map(named).collect::<Result<Vec<_>, ModelError>>()?;
    file::create_folder(folder)?;
    file::write(&folder.join(TENSORS), &tensors::to_bytes(&tensors))
}

/// Reads a model.
///
/// Names may lack `transformer.`, as in the published GPT-2. The constants that old versions stored beside the
/// parameters (`attn.bias`, `attn.masked_bias`) are passed over, and a head that equals the token embedding.
///
/// # Errors
/// Files that are missing, damaged or too large; tensors that are missing, too many, of another shape or type; a model or
/// tokenizer that is not implemented.
pub fn import(folder: &Path) -> Result<Model, ModelError> {
    let config = file::read(&folder.join(CONFIG), MAX_JSON_BYTES)?;
    let tokenizer = file::read(&folder.join(TOKENIZER), MAX_JSON_BYTES)?;
    let tensors = file::read(&folder.join(TENSORS), MAX_MODEL_BYTES)?;
    parse(&config, &tokenizer, &tensors, folder)
}

/// Understands the bytes of a model's three files; `folder` is for messages.
///
/// # Errors
/// As [`import`].
pub fn parse(config: &[u8], tokenizer: &[u8], tensors: &[u8], folder: &Path) -> Result<Model, ModelError> {
    let sizes = config::from_json(&file::json(config, &folder.join(CONFIG))?)?;
    let tokenizer = parse_tokenizer(tokenizer, &folder.join(TOKENIZER))?;
    check_vocabulary(&sizes, &tokenizer)?;
    let mut stored = tensors::Stored::read(tensors, PREFIX)?;

    let full = Layout::new(&sizes);
    // As many as there should be, and no more than the file can hold, at two bytes each.
    let mut parameters = Vec::with_capacity(full.parameters().min(tensors.len() / 2));
    for tensor in &full.tensors {
        let values = stored.take(&tensor.name, &shape(tensor))?;
        check_finite(&tensor.name, &values)?;
        parameters.extend(transposed(tensor, &values, true));
    }
    for block in 0..sizes.layers {
        stored.forget(&format!("h.{block}.attn.bias"));
        stored.forget(&format!("h.{block}.attn.masked_bias"));
    }
    if stored.contains(HEAD) {
        let head = stored.take(HEAD, &[sizes.vocabulary, sizes.width])?;
        if head != parameters[full.tokens..full.tokens + head.len()] {
            return Err(ModelError::Head);
        }
    }
    stored.end()?;

    let biases = || full.tensors.iter().filter(|tensor| tensor.kind == Kind::Bias);
    if biases().any(|tensor| parameters[tensor.range()].iter().any(|value| *value != 0.0)) {
        return Ok(Model { config: sizes, parameters, tokenizer });
    }
    let weights = full.tensors.iter().filter(|tensor| tensor.kind != Kind::Bias);
    let parameters = weights.flat_map(|tensor| parameters[tensor.range()].iter().copied()).collect();
    Ok(Model { config: GptConfig { bias: false, ..sizes }, parameters, tokenizer })
}

/// Reads a `tokenizer.json`.
///
/// # Errors
/// A file that cannot be read, is no JSON, or asks for what is not implemented.
pub fn read_tokenizer(path: &Path) -> Result<Tokenizer, ModelError> {
    parse_tokenizer(&file::read(path, MAX_JSON_BYTES)?, path)
}

/// Understands the text of a `tokenizer.json`; `from` is what messages call it.
///
/// # Errors
/// As [`read_tokenizer`].
pub fn parse_tokenizer(text: &[u8], from: &Path) -> Result<Tokenizer, ModelError> {
    tokenizer::from_json(&file::json(text, from)?)
}

/// A tokenizer as `tokenizer.json`.
pub fn write_tokenizer(tokenizer: &Tokenizer) -> Vec<u8> {
    tokenizer::to_json(tokenizer)
}

fn check_vocabulary(config: &GptConfig, tokenizer: &Tokenizer) -> Result<(), ModelError> {
    let (model, tokens) = (config.vocabulary, tokenizer.vocabulary());
    if model == tokens { Ok(()) } else { Err(ModelError::Vocabulary { model, tokens }) }
}

fn check_finite(name: &str, values: &[f32]) -> Result<(), ModelError> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(ModelError::NotFinite { name: name.to_owned() })
}

/// A tensor's shape in the file.
fn shape(tensor: &Tensor) -> Vec<usize> {
    match tensor.kind {
        Kind::Embedding => vec![tensor.rows, tensor.cols],
        Kind::Linear => vec![tensor.cols, tensor.rows],
        Kind::Norm | Kind::Bias => vec![tensor.rows * tensor.cols],
    }
}

/// Values in the file's order, or from it.
fn transposed(tensor: &Tensor, values: &[f32], from_file: bool) -> Vec<f32> {
    if tensor.kind != Kind::Linear {
        return values.to_vec();
    }
    let (rows, cols) = if from_file { (tensor.cols, tensor.rows) } else { (tensor.rows, tensor.cols) };
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

#[cfg(test)]
mod tests;
