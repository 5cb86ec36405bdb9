//! Run files that are understood, and what is said of others.

use super::*;
use crate::error::CliError;
use std::fs;

fn parse(text: &str) -> Result<RunFile, RunFileError> {
    RunFile::parse(Path::new("run.toml"), text)
}

fn refused(text: &str) -> String {
    let error = CliError::from(parse(text).unwrap_err());
    assert_eq!(error.exit(), crate::error::Exit::RefusedInput);
    assert!(error.hint().is_some());
    error.to_string()
}

#[test]
fn a_corpus_alone_is_a_run_and_the_documented_defaults_are_the_real_ones() {
    let run = parse("corpus = \"some.txt\"").unwrap();
    assert_eq!(run, RunFile { corpus: vec!["some.txt".into()], ..RunFile::default() });
    let documented = parse(DEFAULTS).unwrap();
    assert_eq!(documented, RunFile { corpus: vec!["corpus.txt".into()], ..RunFile::default() });
    // Every key is in that file: without it, parsing would fall back to the same value.
    let table: toml::Table = toml::from_str(DEFAULTS).unwrap();
    for key in ["tokenizer", "model", "steps", "rounds", "volunteers", "batch", "blocks", "seed", "codec"] {
        assert!(table.contains_key(key), "{key}");
    }
    for (part, keys) in [("learning-rate", 4), ("outer", 2), ("audit", 4), ("aggregation", 3)] {
        assert_eq!(table[part].as_table().unwrap().len(), keys, "{part}");
    }
}

#[test]
fn everything_can_be_said() {
    let run = parse(
        "corpus = [\"a.txt\", \"folder\"]\ntokenizer = \"bpe/tokenizer.json\"\ncodec = \"topk\"\nsteps = 20\n\
         [model]\npreset = \"mini\"\ncontext = 128\nbias = true\n[audit]\nleast = 0.1\n",
    )
    .unwrap();
    assert_eq!(run.corpus.len(), 2);
    assert_eq!(run.tokenizer, TokenizerChoice::File("bpe/tokenizer.json".into()));
    assert_eq!((run.codec, run.steps, run.audit.least), (CodecName::TopK, 20, 0.1));
    let ModelChoice::Sizes(sizes) = run.model else { panic!("{:?}", run.model) };
    let config = sizes.config(65);
    assert_eq!((config.layers, config.width, config.context, config.bias), (4, 128, 128, true));
    let run = parse("corpus = \"a\"\nmodel = \"small\"").unwrap();
    assert_eq!(run.model, ModelChoice::Sizes(Sizes { preset: Preset::Small, ..Sizes::default() }));
    let run = parse("corpus = \"a\"\nmodel.from = \"gpt\"").unwrap();
    assert_eq!(run.model, ModelChoice::Folder("gpt".into()));
}

#[test]
fn errors_name_line_and_column() {
    let corpus = "corpus = \"a.txt\"\n";
    let cases = [
        ("", "run.toml:1:1: missing field `corpus`"),
        ("corpus = 3", "run.toml:1:10: invalid type: integer `3`, expected a path"),
        ("corpus = []", "the corpus names no file"),
        ("corpus = \"a.txt", "run.toml:1:"),
        ("corpus = \"a.txt\"\nstep = 3", "run.toml:2:1: unknown field `step`"),
        ("corpus = \"a.txt\"\nsteps = -3", "run.toml:2:9: "),
        ("corpus = \"a.txt\"\nsteps = 0", "run.toml:2:9: steps = 0 is outside 1..=1000"),
        ("corpus = \"a.txt\"\ncodec = \"int5\"", "run.toml:2:9: unknown variant `int5`"),
        ("corpus = \"a.txt\"\ntokenizer = \"words\"", "run.toml:2:13: unknown tokenizer \"words\""),
        ("corpus = \"a.txt\"\nmodel = \"huge\"", "run.toml:2:9: unknown variant `huge`"),
        ("corpus = \"ä\" \n[audit]\n  least = nan", "run.toml:3:11: audit.least = NaN is outside 0..=1"),
        ("corpus = \"ä\" \n[outer]\nmomentum = 1", "run.toml:3:12: outer.momentum = 1 is outside"),
        ("corpus = \"ä\" \n[outer]\nnesterov = 1", "run.toml:3:1: unknown field `nesterov`"),
        ("corpus = \"ä\" \n[aggregation]\ntrim-from = 2", "run.toml:2:"),
        ("corpus = \"ä\" \n[model]\nwidth = 30", "model: width 30 cannot be shared by 4 heads"),
        ("corpus = \"ä\" \n[model]\nwidth = 30\nfrom = \"x\"", "has the sizes of that folder"),
        ("corpus = \"ä\" \n[model]\ndepth = 30", "run.toml:3:1: unknown field `depth`"),
    ];
    for (text, expected) in cases {
        let found = refused(text);
        assert!(found.contains(expected), "{text:?}: {found}");
    }
    assert!(parse(corpus).is_ok());
}

#[test]
fn paths_are_relative_to_the_file_and_bad_files_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    fs::write(&path, "corpus = \"a.txt\"\ntokenizer = \"t.json\"").unwrap();
    let run = RunFile::read(&path).unwrap();
    assert_eq!(run.corpus, [folder.path().join("a.txt")]);
    assert_eq!(run.tokenizer, TokenizerChoice::File(folder.path().join("t.json")));
    fs::write(&path, b"corpus = \"a.txt\"\n# \xff").unwrap();
    assert!(RunFile::read(&path).unwrap_err().to_string().contains(":2:3: a byte is not UTF-8"));
    fs::write(&path, " ".repeat(1 << 21)).unwrap();
    assert!(matches!(RunFile::read(&path), Err(RunFileError::TooLong { .. })));
    assert!(matches!(RunFile::read(&folder.path().join("no.toml")), Err(RunFileError::File { .. })));
}

#[test]
fn files_and_folders_are_read_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("texts/inner")).unwrap();
    let files: [(&str, &[u8]); 6] = [
        ("texts/b.txt", b"second"),
        ("texts/a.md", b"first\n"),
        ("texts/inner/c.TXT", "dritte Zeile, ä\n".as_bytes()),
        ("texts/picture.png", b"\xff\xff"),
        ("texts/.hidden.txt", b"\xff"),
        ("texts/empty.txt", b""),
    ];
    for (name, bytes) in files {
        fs::write(root.join(name), bytes).unwrap();
    }
    let corpus = Corpus::read(&[root.join("texts")]).unwrap();
    assert_eq!(corpus.text, "first\nsecond\ndritte Zeile, ä\n");
    assert_eq!(corpus.files.len(), 4);
    let one = Corpus::read(&[root.join("texts/b.txt")]).unwrap();
    assert_eq!(one.text, "second");
    let run = parse("corpus = \"x\"").unwrap();
    assert_eq!(crate::runs::submit::tokenizer(&run, &one).unwrap().vocabulary(), 6);

    let refused = |name: &str| CliError::from(Corpus::read(&[root.join(name)]).unwrap_err()).to_string();
    assert!(refused("texts/picture.png").contains("byte 0 (line 1) is not valid UTF-8"));
    assert!(refused("texts/empty.txt").contains("a corpus of 0 bytes"));
    assert!(refused("nowhere").contains("could not be read"));
    fs::create_dir(root.join("bare")).unwrap();
    assert!(refused("bare").contains("holds no text files"));
}

#[test]
fn a_run_may_name_its_model_its_proposal_and_where_its_corpus_is_from() {
    let text = "corpus = \"a\"\nmodel-name = \"whale\"\nproposal = \"3c\"\n[data]\nname = \"books\"\n\
                source = \"a library\"\nlicense = \"CC0-1.0\"\n";
    let run = RunFile::parse(Path::new("run.toml"), text).unwrap();
    assert_eq!((run.model_name.as_deref(), run.proposal.as_deref()), (Some("whale"), Some("3c")));
    assert_eq!(run.data.unwrap().license, "CC0-1.0");
    let without = "corpus = \"a\"\n[data]\nname = \"books\"\nsource = \"a library\"\n";
    let error = RunFile::parse(Path::new("run.toml"), without).unwrap_err().to_string();
    assert!(error.contains("run.toml:2") && error.contains("license"), "{error}");
}
