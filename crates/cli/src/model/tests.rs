//! Folders there and back, and folders that are refused.

use super::*;
use potluck_train::data::Characters;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// Trained by the `tokenizers` library on a public-domain novel.
const BPE: &str = include_str!("../../tests/data/bpe.json");
/// Texts, and the tokens that the library makes of them.
const ENCODINGS: &str = include_str!("../../tests/data/bpe-encodings.json");

fn bpe() -> Tokenizer {
    tokenizer::from_json(&serde_json::from_str(BPE).unwrap()).unwrap()
}

fn characters() -> Tokenizer {
    Tokenizer::Characters(Characters::of("The cat's hat.\n\"ä\\🙂").unwrap())
}

fn small(vocabulary: usize, bias: bool) -> (GptConfig, Vec<f32>) {
    let config = GptConfig { vocabulary, context: 8, layers: 2, heads: 2, width: 6, bias };
    // Exact as bf16 and f16 too, all different within a tensor's reach.
    let parameters = (0..Layout::new(&config).parameters()).map(|at| (at % 251) as f32 / 64.0 + 0.25);
    (config, parameters.collect())
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn exported(bias: bool) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let tokenizer = characters();
        let (config, parameters) = small(tokenizer.vocabulary(), bias);
        export(folder.0.path(), &config, &parameters, &tokenizer).unwrap();
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn edit(&self, name: &str, change: impl Fn(&mut Value)) -> Result<Model, ModelError> {
        let mut value = serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap();
        change(&mut value);
        fs::write(self.file(name), value.to_string()).unwrap();
        self.import()
    }

    /// Changes header and data of the tensors' file.
    fn tensors(&self, change: impl Fn(&mut Value, &mut Vec<u8>)) -> Result<Model, ModelError> {
        let bytes = fs::read(self.file(TENSORS)).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut data = bytes[8 + length..].to_vec();
        change(&mut header, &mut data);
        let header = header.to_string().into_bytes();
        let parts = [&(header.len() as u64).to_le_bytes()[..], &header, &data];
        fs::write(self.file(TENSORS), parts.concat()).unwrap();
        self.import()
    }

    fn import(&self) -> Result<Model, ModelError> {
        import(self.0.path())
    }
}

fn refusal(result: Result<Model, ModelError>) -> String {
    let error = result.unwrap_err();
    let message = error.to_string();
    let shown = crate::error::CliError::from(error);
    assert!(shown.hint().is_some(), "{message}");
    message
}

#[test]
fn models_come_back_with_each_tokenizer() {
    for tokenizer in [characters(), Tokenizer::Bytes, bpe()] {
        for bias in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let (config, parameters) = small(tokenizer.vocabulary(), bias);
            // A folder within a folder that is not there yet.
            let path = folder.path().join("a/b");
            export(&path, &config, &parameters, &tokenizer).unwrap();
            let model = import(&path).unwrap();
            assert_eq!(model, Model { config, parameters, tokenizer: tokenizer.clone() });
        }
    }
}

#[test]
fn zero_biases_are_no_biases() {
    let tokenizer = characters();
    let (config, mut parameters) = small(tokenizer.vocabulary(), true);
    let layout = Layout::new(&config);
    for tensor in layout.tensors.iter().filter(|tensor| tensor.kind == Kind::Bias) {
        parameters[tensor.range()].fill(0.0);
    }
    let folder = tempfile::tempdir().unwrap();
    export(folder.path(), &config, &parameters, &tokenizer).unwrap();
    let model = import(folder.path()).unwrap();
    assert!(!model.config.bias);
    assert_eq!(model.parameters.len(), Layout::new(&model.config).parameters());
    let weights: Vec<f32> = parameters.into_iter().filter(|value| *value != 0.0).collect();
    assert_eq!(model.parameters, weights);
}

#[test]
fn the_file_has_the_layout_of_hugging_face() {
    let folder = Folder::exported(false);
    let bytes = fs::read(folder.file(TENSORS)).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    assert_eq!(length % 8, 0);
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    assert_eq!(header["__metadata__"], json!({ "format": "pt" }));
    // 2 embeddings, 12 tensors a block, 2 of the last norm.
    assert_eq!(header.as_object().unwrap().len(), 1 + 2 + 2 * 12 + 2);
    let qkv = &header["transformer.h.1.attn.c_attn.weight"];
    assert_eq!((&qkv["shape"], &qkv["dtype"]), (&json!([6, 18]), &json!("F32")));
    assert_eq!(header["transformer.h.1.attn.c_attn.bias"]["shape"], json!([18]));
    // Input 2, output 5 of the file is row 5, column 2 of ours.
    let start = 8 + length + qkv["data_offsets"][0].as_u64().unwrap() as usize + 4 * (2 * 18 + 5);
    let (config, parameters) = small(characters().vocabulary(), false);
    let ours = Layout::new(&config).blocks[1].qkv + 5 * 6 + 2;
    assert_eq!(bytes[start..].first_chunk().unwrap(), &parameters[ours].to_le_bytes());
}

#[test]
fn names_without_prefix_masks_tied_heads_and_halves_are_understood() {
    let folder = Folder::exported(true);
    let expected = folder.import().unwrap();
    let model = folder.tensors(|header, data| {
        let old = header.as_object().unwrap().clone();
        let mut new = serde_json::Map::new();
        let mut bytes = Vec::new();
        for (name, entry) in old.iter().filter(|(name, _)| *name != "__metadata__") {
            let at = |end: usize| entry["data_offsets"][end].as_u64().unwrap() as usize;
            let values = data[at(0)..at(1)].as_chunks::<4>().0;
            let (start, half) = (bytes.len(), name.contains("c_fc"));
            let short = |four: &[u8; 4]| {
                let bits = f32::from_le_bytes(*four).to_bits();
                // The values have few digits and exponents around 0: both short forms hold them exactly.
                let f16 = (bits >> 13 & 0x3ff) | (((bits >> 23) - 112) << 10);
                if half { f16 as u16 } else { (bits >> 16) as u16 }
            };
            bytes.extend(values.iter().flat_map(|four| short(four).to_le_bytes()));
            let dtype = if half { "F16" } else { "BF16" };
            let plain = name.strip_prefix("transformer.").unwrap();
            let entry =
                json!({ "dtype": dtype, "shape": entry["shape"], "data_offsets": [start, bytes.len()] });
            if plain == "wte.weight" {
                let copy = bytes[start..].to_vec();
                let from = bytes.len();
                bytes.extend(copy);
                let shape = &entry["shape"];
                let head = json!({ "dtype": dtype, "shape": shape, "data_offsets": [from, bytes.len()] });
                new.insert(HEAD.into(), head);
            }
            new.insert(plain.into(), entry);
        }
        for name in ["h.0.attn.bias", "h.1.attn.masked_bias"] {
            let (from, to) = (bytes.len(), bytes.len() + 1);
            bytes.push(1);
            new.insert(name.into(), json!({ "dtype": "U8", "shape": [1, 1], "data_offsets": [from, to] }));
        }
        (*header, *data) = (Value::Object(new), bytes);
    });
    let model = model.unwrap();
    // bf16 keeps 8 digits of the values' 9 or 10: compare what is left.
    for tensor in &Layout::new(&model.config).tensors {
        for (found, exact) in
            model.parameters[tensor.range()].iter().zip(&expected.parameters[tensor.range()])
        {
            let kept = if tensor.name.contains("c_fc") {
                *exact
            } else {
                f32::from_bits(exact.to_bits() & 0xffff_0000)
            };
            assert_eq!(found.to_bits(), kept.to_bits(), "{}", tensor.name);
        }
    }
    let other = folder.tensors(|header, data| {
        let at = header[HEAD]["data_offsets"][0].as_u64().unwrap() as usize;
        data[at] ^= 1;
    });
    assert!(refusal(other).contains("tied"));
}

#[test]
fn bad_tensors_are_refused_by_name() {
    let name = "transformer.h.0.mlp.c_fc.weight";
    let refused = |change: &dyn Fn(&mut Value, &mut Vec<u8>)| {
        refusal(Folder::exported(false).tensors(|header, data| change(header, data)))
    };
    let renamed = refused(&|header, _| {
        let entry = header.as_object_mut().unwrap().remove(name).unwrap();
        header["transformer.other"] = entry;
    });
    assert!(renamed.contains("lacks the tensor h.0.mlp.c_fc.weight"), "{renamed}");
    let extra = refused(&|header, data| {
        let end = data.len();
        header["transformer.h.2.ln_1.weight"] =
            json!({ "dtype": "F32", "shape": [1], "data_offsets": [end, end + 4] });
        data.extend([0; 4]);
    });
    assert!(extra.contains("has a tensor h.2.ln_1.weight"), "{extra}");
    let shape = refused(&|header, _| header[name]["shape"] = json!([24, 6]));
    assert!(shape.contains("the shape [24, 6] instead of [6, 24]"), "{shape}");
    let dtype = refused(&|header, _| header[name]["dtype"] = json!("I32"));
    assert!(dtype.contains("has the type I32"), "{dtype}");
    let short = refused(&|header, _| header[name]["dtype"] = json!("F16"));
    assert!(short.contains("not its shape's"), "{short}");
    let nan = refused(&|_, data| data[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(nan.contains("wte.weight holds values that are not finite"), "{nan}");
    for offsets in [json!([4, 2]), json!([0, 1]), json!([u64::MAX, u64::MAX])] {
        let gap = refused(&|header, _| header[name]["data_offsets"] = offsets.clone());
        assert!(gap.contains("damaged"), "{gap}");
    }
    assert!(refused(&|_, data| data.truncate(data.len() - 1)).contains("damaged"));
    assert!(refused(&|_, data| data.push(0)).contains("damaged"));
    assert!(refused(&|header, _| *header = json!([])).contains("damaged"));
}

#[test]
fn bad_files_are_refused() {
    for bytes in [&b""[..], &[0; 7], &[0xff; 64], &[9, 0, 0, 0, 0, 0, 0, 0, b'{']] {
        let folder = Folder::exported(false);
        fs::write(folder.file(TENSORS), bytes).unwrap();
        assert!(refusal(folder.import()).contains("damaged"));
    }
    for name in [TENSORS, CONFIG, TOKENIZER] {
        let folder = Folder::exported(false);
        fs::remove_file(folder.file(name)).unwrap();
        assert!(refusal(folder.import()).contains(name));
    }
    let folder = Folder::exported(false);
    fs::write(folder.file(CONFIG), "{\n  \"n_embd\": 6,\n  oops").unwrap();
    assert!(refusal(folder.import()).contains("line 3"));
}

#[test]
fn models_that_are_not_implemented_are_refused_by_setting() {
    let settings = [
        ("model_type", json!("llama")),
        ("activation_function", json!("relu")),
        ("layer_norm_epsilon", json!(1e-6)),
        ("n_inner", json!(7)),
        ("tie_word_embeddings", json!(false)),
        ("scale_attn_by_inverse_layer_idx", json!(true)),
        ("n_embd", json!(-6)),
        ("n_layer", json!("two")),
    ];
    for (field, value) in settings {
        let refused = refusal(Folder::exported(false).edit(CONFIG, |config| config[field] = value.clone()));
        assert!(refused.contains(field), "{refused}");
    }
    let huge = Folder::exported(false).edit(CONFIG, |config| config["n_embd"] = json!(1_u64 << 40));
    assert!(refusal(huge).contains("width = 1099511627776"));
    let heads = Folder::exported(false).edit(CONFIG, |config| config["n_head"] = json!(4));
    assert!(refusal(heads).contains("4 heads"));
    let other = Folder::exported(false).edit(CONFIG, |config| config["vocab_size"] = json!(99));
    assert!(refusal(other).contains("99 tokens"));
    let usual = Folder::exported(false).edit(CONFIG, |config| {
        config["n_inner"] = json!(24);
        config["resid_pdrop"] = json!(0.1);
    });
    assert!(usual.is_ok());
}

#[test]
fn tokens_are_those_of_the_tokenizers_library() {
    let tokenizer = bpe();
    let cases: Vec<Value> = serde_json::from_str(ENCODINGS).unwrap();
    assert!(cases.len() >= 60);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(json!(tokens), case["tokens"], "{text:?}");
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    }
}

#[test]
fn tokenizers_that_are_not_implemented_are_refused_by_part() {
    let file: Value = serde_json::from_str(BPE).unwrap();
    let parts = [
        ("/normalizer", json!({ "type": "NFC" }), "normalizer"),
        ("/truncation", json!({ "max_length": 4 }), "truncation"),
        ("/pre_tokenizer", json!({ "type": "Metaspace" }), "pre_tokenizer.type"),
        ("/pre_tokenizer/add_prefix_space", json!(true), "pre_tokenizer.add_prefix_space"),
        ("/pre_tokenizer/use_regex", json!(false), "pre_tokenizer.use_regex"),
        ("/post_processor", json!({ "type": "TemplateProcessing" }), "post_processor"),
        ("/decoder", Value::Null, "decoder"),
        ("/model/type", json!("Unigram"), "model"),
        ("/model/dropout", json!(0.1), "model.dropout"),
        ("/model/end_of_word_suffix", json!("</w>"), "model.end_of_word_suffix"),
        ("/model/byte_fallback", json!(true), "model.byte_fallback"),
        ("/model/merges/0", json!("ab"), "model.merges"),
        ("/model/vocab", json!([]), "model.vocab"),
        ("/model/vocab/a", json!(-1), "model.vocab"),
        ("/added_tokens/0/lstrip", json!(true), "added_tokens.lstrip"),
        ("/added_tokens/0/content", json!(1), "added_tokens.content"),
    ];
    for (pointer, value, named) in parts {
        let mut changed = file.clone();
        *changed.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        let refused = tokenizer::from_json(&changed).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("tokenizer.json: {named} is ")), "{refused}");
    }
    let mut unknown = file.clone();
    unknown["sauce"] = json!(1);
    assert!(tokenizer::from_json(&unknown).unwrap_err().to_string().contains("sauce"));
    for nothing in [json!(null), json!([]), json!({})] {
        assert!(tokenizer::from_json(&nothing).is_err());
    }
    // Merges as old files write them.
    let mut old = file;
    let merges = old["model"]["merges"].as_array().unwrap().clone();
    let joined =
        merges.iter().map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
    old["model"]["merges"] = joined.collect();
    old["model"].as_object_mut().unwrap().remove("type");
    assert_eq!(tokenizer::from_json(&old).unwrap(), bpe());
}

#[test]
fn vocabularies_of_characters_are_checked() {
    let file: Value = serde_json::from_slice(&tokenizer::to_json(&characters())).unwrap();
    for vocabulary in
        [json!({ "a": 0, "bc": 1 }), json!({ "a": 0, "b": 2 }), json!({ "b": 0, "a": 1 }), json!({})]
    {
        let mut changed = file.clone();
        changed["model"]["vocab"] = vocabulary;
        assert!(tokenizer::from_json(&changed).is_err());
    }
    let mut words = file;
    words["pre_tokenizer"] = json!({ "type": "Whitespace" });
    assert!(tokenizer::from_json(&words).unwrap_err().to_string().contains("pre_tokenizer"));
}
