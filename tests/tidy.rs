//! The house rules that a machine can check: who may import what, what must not be left lying about,
//! how long a function and a file may be, and that README, Makefile and program agree.
//!
//! Every rule is a pure function from text to complaints, so that the tests at the end can feed it a
//! text that breaks it: a rule that cannot fail checks nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest function, from its `fn` line to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Longest file that need not say why it is long.
const FILE_LINES_MAX: usize = 800;
/// The words with which a longer file says why, in one of its first ten lines.
const LONG_FILE_REASON: &str = "This file is long because";

/// Functions that may be longer: (file, function, why).
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

/// What one crate may see: the plan of the house.
struct CrateRule {
    /// The crate's folder.
    folder: &'static str,
    /// Everything that its `[dependencies]` may name.
    dependencies: &'static [&'static str],
    /// Workspace crates that its `[dev-dependencies]` may name.
    dev_workspace_crates: &'static [&'static str],
    /// Words that its code must not contain. A word with `::` is a path, found as it is written.
    forbidden: &'static [&'static str],
}

/// Words that a core never says: its host owns clocks, threads, files, sockets and the log output.
const CORE_FORBIDDEN: &[&str] = &[
    "tokio",
    "redb",
    "redis_protocol",
    "tracing",
    "std::net",
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "println!",
    "eprintln!",
];

const CRATES: &[CrateRule] = &[
    CrateRule {
        folder: "raft-core",
        dependencies: &["bytes", "crc32fast", "serde", "smallvec", "thiserror"],
        dev_workspace_crates: &[],
        forbidden: CORE_FORBIDDEN,
    },
    CrateRule {
        folder: "shard-core",
        dependencies: &[
            "bytes",
            "crc32fast",
            "hmac",
            "itoa",
            "postcard",
            "raft-core",
            "serde",
            "sha2",
            "smallvec",
            "thiserror",
        ],
        dev_workspace_crates: &["raft-core"],
        forbidden: CORE_FORBIDDEN,
    },
    CrateRule {
        folder: "router",
        dependencies: &[
            "bytes",
            "itoa",
            "memchr",
            "redis-protocol",
            "sha2",
            "shard-core",
            "socket2",
            "thiserror",
            "tokio",
            "tokio-util",
            "tracing",
        ],
        dev_workspace_crates: &["shard-core"],
        forbidden: &["redb", "raft_core", "postcard"],
    },
    CrateRule {
        folder: "server",
        dependencies: &[
            "bytes",
            "clap",
            "indicatif",
            "raft-core",
            "redb",
            "router",
            "rustix",
            "serde",
            "serde_json",
            "shard-core",
            "thiserror",
            "tokio",
            "tokio-util",
            "toml",
            "tracing",
            "tracing-subscriber",
            "xxhash-rust",
        ],
        dev_workspace_crates: &["raft-core", "shard-core", "router"],
        forbidden: &["redis_protocol", "postcard"],
    },
];

/// Crates of this workspace.
const WORKSPACE_CRATES: &[&str] =
    &["raft-core", "shard-core", "router", "server", "harness", "tests", "examples"];

// ---- The project's files ----

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `folder` (relative to the root, "" for all) with one of the endings, as (path
/// relative to the root, text). Skips build output and what `make test` installs.
fn files(folder: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap_or_else(|error| panic!("{}: {error}", at.display())) {
            let path = entry.expect("a folder entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                let generated = ["target", "flotilla-data", ".clients", ".git", "node_modules"];
                if !generated.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let relative = path.strip_prefix(root()).expect("below the root");
                let text = fs::read_to_string(&path).expect("text files are UTF-8");
                found.push((relative.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

// ---- Reading Rust ----

/// The code alone: comments, string and character literals become blanks, lines stay where they are.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'r' | b'b' | b'c' | b'"' => string_end(bytes, at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole literals were blanked")
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start + 2, 1);
    while at < bytes.len() && depth > 0 {
        if bytes[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
        } else if bytes[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else {
            at += 1;
        }
    }
    at
}

/// The end of a string literal that starts here, prefix included; `start` itself if none does.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let word_before =
        start > 0 && (bytes[start - 1].is_ascii_alphanumeric() || bytes[start - 1] == b'_');
    let prefix = bytes[start..].iter().take_while(|byte| b"rbc".contains(byte)).count();
    let hashes = bytes[start + prefix..].iter().take_while(|byte| **byte == b'#').count();
    let raw = bytes[start..start + prefix].contains(&b'r');
    let open = start + prefix + hashes;
    if word_before || prefix > 2 || bytes.get(open) != Some(&b'"') || (hashes > 0 && !raw) {
        return start;
    }
    let mut at = open + 1;
    while at < bytes.len() {
        if bytes[at] == b'\\' && !raw {
            at += 2;
        } else if bytes[at] == b'"'
            && bytes[at + 1..].iter().take_while(|b| **b == b'#').count() >= hashes
        {
            return at + 1 + hashes;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// The end of a character literal that starts here; `start` itself if this is a lifetime.
fn char_end(bytes: &[u8], start: usize) -> usize {
    if bytes.get(start + 1) == Some(&b'\\') {
        let close = bytes[start + 3..].iter().position(|byte| *byte == b'\'');
        return close.map_or(start, |length| start + 3 + length + 1);
    }
    let text = std::str::from_utf8(&bytes[start + 1..]).unwrap_or_default();
    match text.chars().next() {
        Some(c) if bytes.get(start + 1 + c.len_utf8()) == Some(&b'\'') => start + 2 + c.len_utf8(),
        _ => start,
    }
}

/// Whether `word` stands in `line` with no letter, digit or underscore on either side.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part)
            && (!word.ends_with(is_part) || !line[at + word.len()..].starts_with(is_part))
    })
}

/// `(line, name, lines)` of every function with a body. `line` counts from 1.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let Some(rest) = line.split("fn ").nth(1).filter(|_| has_word(line, "fn")) else {
            continue;
        };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !name.is_empty()
            && let Some(length) = body_lines(&lines[number..])
        {
            found.push((number + 1, name, length));
        }
    }
    found
}

/// Lines from a function's first to its closing brace; `None` for one without a body.
fn body_lines(lines: &[&str]) -> Option<usize> {
    let (mut braces, mut others) = (0, 0);
    for (number, line) in lines.iter().enumerate() {
        for c in line.chars() {
            match c {
                '(' | '[' => others += 1,
                ')' | ']' => others -= 1,
                '{' => braces += 1,
                '}' if braces == 1 => return Some(number + 1),
                '}' => braces -= 1,
                ';' if braces == 0 && others == 0 => return None,
                _ => {}
            }
        }
    }
    None
}

// ---- The rules ----

/// Names in one section of a Cargo.toml.
fn section<'a>(manifest: &'a str, name: &str) -> Vec<&'a str> {
    let head = format!("[{name}]");
    manifest
        .lines()
        .skip_while(|line| line.trim() != head)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|word| !word.is_empty() && !word.starts_with('#'))
        .collect()
}

fn check_manifest(rule: &CrateRule, manifest: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for name in section(manifest, "dependencies") {
        if !rule.dependencies.contains(&name) {
            complaints.push(format!("{} may not depend on {name}", rule.folder));
        }
    }
    for name in section(manifest, "dev-dependencies") {
        if WORKSPACE_CRATES.contains(&name) && !rule.dev_workspace_crates.contains(&name) {
            complaints.push(format!("tests of {} may not depend on {name}", rule.folder));
        }
    }
    complaints
}

/// Complaints about `forbidden` words in the code of one file.
fn check_words(path: &str, text: &str, forbidden: &[&str]) -> Vec<String> {
    let code = code_only(text);
    let mut complaints = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for word in forbidden.iter().filter(|word| has_word(line, word)) {
            complaints.push(format!("{path}:{}: `{word}` does not belong here", number + 1));
        }
    }
    complaints
}

/// Broken rules are for tests, a program without lanes is for a benchmark: no crate that is shipped may switch either on.
fn check_features(folder: &str, manifest: &str) -> Vec<String> {
    let allowed = match folder {
        "raft-core" | "router" => "mutants = []",
        "shard-core" => "without-lanes = []",
        "server" => "without-lanes = [\"shard-core/without-lanes\"]",
        _ => "",
    };
    manifest
        .lines()
        .filter(|line| !line.starts_with('#') && line.trim() != allowed)
        .filter(|line| has_word(line, "mutants") || has_word(line, "without-lanes"))
        .map(|line| format!("{folder}/Cargo.toml: `{line}` would ship broken rules"))
        .collect()
}

/// The one file that turns types into bytes, and the only one that may name the encoder.
fn may_name_postcard(path: &str) -> bool {
    path == "shard-core/src/codec.rs"
}

/// Words that must not be left anywhere, put together so that this file does not hold them.
fn stray_words() -> Vec<String> {
    let pairs = [("TO", "DO"), ("FIX", "ME"), ("XX", "X:"), ("to", "do!"), ("db", "g!")];
    let more = [("unimple", "mented!"), ("#[ig", "nore"), ("/wo", "rk/"), ("/ro", "ot/")];
    pairs.iter().chain(&more).map(|(a, b)| format!("{a}{b}")).collect()
}

fn check_strays(path: &str, text: &str) -> Vec<String> {
    let words = stray_words();
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for word in &words {
            let found = if word.starts_with(char::is_alphabetic) {
                has_word(line, word)
            } else {
                line.contains(word.as_str())
            };
            if found {
                complaints.push(format!("{path}:{}: `{word}`", number + 1));
            }
        }
    }
    complaints
}

fn check_function_lengths(
    path: &str,
    text: &str,
    exceptions: &[(&str, &str, &str)],
) -> Vec<String> {
    functions(&code_only(text))
        .into_iter()
        .filter(|(_, name, lines)| {
            let excepted =
                exceptions.iter().any(|(file, function, _)| *file == path && function == name);
            *lines > FUNCTION_LINES_MAX && !excepted
        })
        .map(|(line, name, lines)| {
            format!("{path}:{line}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}")
        })
        .collect()
}

fn check_file_length(path: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    let says_why = text.lines().take(10).any(|line| line.contains(LONG_FILE_REASON));
    (lines > FILE_LINES_MAX && !says_why).then(|| {
        format!("{path}: {lines} lines; past {FILE_LINES_MAX} it says at its top: {LONG_FILE_REASON} ...")
    })
}

/// The targets of a Makefile, with the number of lines of each recipe.
fn make_targets(makefile: &str) -> Vec<(String, usize)> {
    let mut targets: Vec<(String, usize)> = Vec::new();
    for line in makefile.lines() {
        let name = line.split(':').next().unwrap_or_default();
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        if line.starts_with('\t') {
            if let Some((_, lines)) = targets.last_mut() {
                *lines += 1;
            }
        } else if is_name && line.contains(':') && !line.contains(":=") {
            targets.push((name.to_string(), 0));
        }
    }
    targets
}

fn check_make_targets(makefile: &str, readme: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (target, lines) in make_targets(makefile) {
        if !has_word(readme, &format!("make {target}")) {
            complaints.push(format!("README.md does not name `make {target}`"));
        }
        if lines > 1 {
            complaints.push(format!("make {target} has {lines} lines, a target has one"));
        }
    }
    complaints
}

/// The commands of the table in `router/src/commands/mod.rs`: rows `spec("name", ...)` and
/// `container("name", ...)`.
fn table_commands(source: &str) -> Vec<String> {
    source
        .lines()
        .map(str::trim)
        .filter_map(|row| row.strip_prefix("spec(\"").or(row.strip_prefix("container(\"")))
        .filter_map(|row| row.split('"').next())
        // Subcommands, `client|id`, stand in the table of `CLIENT HELP` and its like.
        .filter(|name| !name.contains('|'))
        .map(str::to_uppercase)
        .collect()
}

fn check_commands(source: &str, readme: &str) -> Vec<String> {
    table_commands(source)
        .into_iter()
        .filter(|name| !has_word(readme, name))
        .map(|name| format!("README.md does not name the command {name}"))
        .collect()
}

/// The long flags of the program: fields below `#[arg(long...)]` in `server/src/config.rs`.
fn long_flags(source: &str) -> Vec<String> {
    let mut flags = Vec::new();
    let mut below_long = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[arg(long") {
            below_long = true;
        } else if let (true, Some(field)) = (below_long, line.strip_prefix("pub ")) {
            let name = field.split(':').next().unwrap_or_default();
            flags.push(format!("--{}", name.replace('_', "-")));
            below_long = false;
        }
    }
    flags
}

fn check_flags(source: &str, readme: &str) -> Vec<String> {
    long_flags(source)
        .into_iter()
        .filter(|flag| !has_word(readme, flag))
        .map(|flag| format!("README.md does not name the flag {flag}"))
        .collect()
}

/// Recipes that a document shows, `program` being one that is run.
fn check_recipes(document: &str, language: &str, path: &str, program: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    let recipes =
        document.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap_or(rest));
    let mut complaints: Vec<String> = recipes
        .clone()
        .filter(|recipe| !program.contains(recipe))
        .map(|recipe| format!("{path} does not have this, word for word:\n{recipe}"))
        .collect();
    if recipes.count() == 0 {
        complaints.push(format!("there is no recipe in {language}"));
    }
    complaints
}

fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

// ---- The project against the rules ----

#[test]
fn no_shipped_crate_breaks_rules_on_purpose() {
    let manifest = |rule: &CrateRule| read(&format!("{}/Cargo.toml", rule.folder));
    none(CRATES.iter().flat_map(|rule| check_features(rule.folder, &manifest(rule))).collect());
    let broken = "raft-core = { workspace = true, features = [\"mutants\"] }";
    assert_eq!(check_features("server", broken).len(), 1);
    assert_eq!(check_features("raft-core", "default = [\"mutants\"]").len(), 1);
    assert_eq!(check_features("server", "mutants = []").len(), 1);
    let broken = "shard-core = { workspace = true, features = [\"without-lanes\"] }";
    assert_eq!(check_features("router", broken).len(), 1);
    assert_eq!(check_features("server", "default = [\"without-lanes\"]").len(), 1);
    for folder in ["tests", "tests/harness", "examples"] {
        assert!(!has_word(&read(&format!("{folder}/Cargo.toml")), "without-lanes"), "{folder}");
    }
}

#[test]
fn crates_depend_only_on_what_the_plan_allows() {
    none(
        CRATES
            .iter()
            .flat_map(|rule| check_manifest(rule, &read(&format!("{}/Cargo.toml", rule.folder))))
            .collect(),
    );
}

#[test]
fn code_names_only_what_its_crate_may_see() {
    let mut complaints = Vec::new();
    for rule in CRATES {
        for (path, text) in files(&format!("{}/src", rule.folder), &[".rs"]) {
            complaints.extend(check_words(&path, &text, rule.forbidden));
            if !may_name_postcard(&path) {
                complaints.extend(check_words(&path, &text, &["postcard"]));
            }
        }
    }
    none(complaints);
}

#[test]
fn nothing_stray_is_left() {
    let endings = [".rs", ".toml", ".md", ".py", ".mjs", ".sh", "Makefile"];
    none(files("", &endings).iter().flat_map(|(path, text)| check_strays(path, text)).collect());
}

#[test]
fn functions_fit_a_screen() {
    none(
        files("", &[".rs"])
            .iter()
            .flat_map(|(path, text)| check_function_lengths(path, text, LONG_FUNCTIONS))
            .collect(),
    );
}

#[test]
fn exceptions_are_still_needed() {
    for (path, function, why) in LONG_FUNCTIONS {
        let without = check_function_lengths(path, &read(path), &[]);
        let needle = format!("fn {function} ");
        assert!(without.iter().any(|c| c.contains(&needle)), "{path}: {function} is short now");
        assert!(why.len() > 20, "{path}: {function} needs a reason");
    }
}

#[test]
fn long_files_say_why() {
    none(
        files("", &[".rs"])
            .iter()
            .filter_map(|(path, text)| check_file_length(path, text))
            .collect(),
    );
}

#[test]
fn readme_names_every_make_target() {
    let makefile = read("Makefile");
    assert!(make_targets(&makefile).len() >= 6, "the Makefile was read");
    none(check_make_targets(&makefile, &read("README.md")));
}

#[test]
fn readme_names_every_flag() {
    let source = read("server/src/config.rs");
    assert!(long_flags(&source).len() >= 15, "the flags were found");
    none(check_flags(&source, &read("README.md")));
}

#[test]
fn readme_names_every_command() {
    let source = read("router/src/commands/mod.rs");
    assert!(table_commands(&source).len() >= 30, "the table was found");
    none(check_commands(&source, &read("README.md")));
}

#[test]
fn recipes_are_those_that_are_run() {
    let document = read("docs/exactly-once.md");
    let programs = [
        ("python", "exactly_once.py"),
        ("js", "exactly_once.mjs"),
        ("rust", "exactly_once.rs"),
        ("java", "ExactlyOnce.java"),
    ];
    let programs = programs.map(|(language, name)| {
        let path = format!("examples/{name}");
        check_recipes(&document, language, &path, &read(&path))
    });
    none(programs.concat());
}

// ---- Each rule can fail ----

#[test]
fn a_forbidden_dependency_is_found() {
    let core = &CRATES[0];
    let bad = "[dependencies]\nbytes.workspace = true\ntokio = \"1\"\n\n[dev-dependencies]\nserver.workspace = true\n";
    assert_eq!(
        check_manifest(core, bad),
        ["raft-core may not depend on tokio", "tests of raft-core may not depend on server"]
    );
}

#[test]
fn a_forbidden_word_is_found_in_code_alone() {
    let bad = "use std::collections::HashMap;\n// HashMap is slow\nlet s = \"HashMap\";\nlet x = MyHashMap;\nuse std::fs::File;\n";
    assert_eq!(
        check_words("a.rs", bad, CORE_FORBIDDEN),
        ["a.rs:1: `HashMap` does not belong here", "a.rs:5: `std::fs` does not belong here"]
    );
    assert!(
        may_name_postcard("shard-core/src/codec.rs") && !may_name_postcard("shard-core/src/op.rs")
    );
}

#[test]
fn code_only_knows_literals_from_lifetimes() {
    let text = "fn f<'a>(x: &'a str) -> char { let _ = r#\"} \" }\"#; /* } */ let _ = b\"}\\\"\"; '}' } // }";
    let code = code_only(text);
    assert_eq!(code.matches('}').count(), 1, "{code}");
    assert!(code.contains("'a"), "{code}");
    assert_eq!(code.len(), text.len());
}

#[test]
fn every_stray_word_is_found() {
    for word in stray_words() {
        assert_eq!(check_strays("a.rs", &format!("// {word} x\n")), [format!("a.rs:1: `{word}`")]);
    }
    assert!(check_strays("a.rs", "let todos = 1;").is_empty());
}

#[test]
fn a_long_function_is_found() {
    let body = |lines| {
        format!("impl X {{\n    pub fn long() {{\n{}    }}\n}}\n", "        x();\n".repeat(lines))
    };
    assert!(check_function_lengths("a.rs", &body(FUNCTION_LINES_MAX - 2), &[]).is_empty());
    let complaint = check_function_lengths("a.rs", &body(FUNCTION_LINES_MAX - 1), &[]);
    assert_eq!(complaint, ["a.rs:2: fn long has 71 lines, at most 70"]);
    let excepted = [("a.rs", "long", "because")];
    assert!(check_function_lengths("a.rs", &body(100), &excepted).is_empty());
    assert!(functions("trait T {\n fn none(&self, a: [u8; 4]) -> u8;\n}").is_empty());
}

#[test]
fn a_long_file_is_found() {
    let long = "x\n".repeat(FILE_LINES_MAX + 1);
    assert!(check_file_length("a.rs", &long).is_some());
    assert!(check_file_length("a.rs", &long[2..]).is_none());
    assert!(
        check_file_length("a.rs", &format!("//! {LONG_FILE_REASON} it is one table.\n{long}"))
            .is_none()
    );
}

#[test]
fn a_missing_make_target_and_a_hidden_recipe_are_found() {
    let makefile = "VAR := 1\n.PHONY: run\nrun:\n\tcargo run\nhidden-one: run\n\ta\n\tb\n";
    assert_eq!(
        check_make_targets(makefile, "`make run` runs it."),
        [
            "README.md does not name `make hidden-one`",
            "make hidden-one has 2 lines, a target has one"
        ]
    );
}

#[test]
fn a_command_missing_from_the_readme_is_found() {
    let table = "    spec(\"get\", 2),\n    // spec\n    spec(\"append\", 3),\n    container(\"client\", -2),\n";
    let missing =
        ["APPEND", "CLIENT"].map(|name| format!("README.md does not name the command {name}"));
    assert_eq!(check_commands(table, "GET"), missing);
}

#[test]
fn a_flag_missing_from_the_readme_is_found() {
    let source = "/// Doc.\n#[arg(long, value_parser = x)]\npub dry_run: bool,\n#[arg(long)]\npub port: u16,\n";
    assert_eq!(check_flags(source, "`--port P`"), ["README.md does not name the flag --dry-run"]);
}

#[test]
fn a_recipe_that_nobody_runs_is_found() {
    let document = "So:\n\n```python\nonce()\n```\n\nOr:\n\n```js\nonce();\n```\n";
    assert!(check_recipes(document, "python", "a.py", "import x\nonce()\n").is_empty());
    let complaint = "a.py does not have this, word for word:\nonce()\n";
    assert_eq!(check_recipes(document, "python", "a.py", "twice()\n"), [complaint]);
    assert_eq!(check_recipes(document, "rust", "a.rs", ""), ["there is no recipe in rust"]);
}
