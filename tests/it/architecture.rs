//! Who may depend on whom, as ARCHITECTURE.md says.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Modules of the crate, and what each may name by `crate::`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("certificates", &[]),
    ("chaos", &["certificates"]),
    ("egress", &[]),
    ("message", &[]),
    ("pop3", &["egress"]),
    ("store", &[]),
    ("connection", &["pop3", "store"]),
    ("parsed", &["message", "store"]),
    ("oauth", &["egress", "store"]),
    ("retention", &["store"]),
    (
        "sync",
        &["connection", "message", "oauth", "parsed", "pop3", "store"],
    ),
    ("webhooks", &["egress", "store"]),
    ("check", &["config", "egress", "pop3"]),
    (
        "api",
        &[
            "check",
            "connection",
            "message",
            "oauth",
            "parsed",
            "pop3",
            "store",
        ],
    ),
];

#[test]
fn modules_depend_one_way() {
    for (module, allowed) in MAY_USE {
        for file in sources_of(module) {
            for used in crates_used_in(&fs::read_to_string(&file).unwrap()) {
                let itself = used == *module;
                assert!(
                    itself || allowed.contains(&used.as_str()),
                    "{} uses crate::{used}, which {module} may not",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn sql_lives_in_the_store_alone() {
    for file in files_below(Path::new("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let allowed = file.starts_with("src/store") || file == Path::new("src/store.rs");
        let used = text.contains("use sqlx") || text.contains("sqlx::query");
        assert!(allowed || !used, "{} uses sqlx", file.display());
    }
}

fn sources_of(module: &str) -> Vec<PathBuf> {
    let mut files = files_below(&Path::new("src").join(module));
    files.push(Path::new("src").join(module).with_extension("rs"));
    files
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The first segment after each `crate::`, grouped imports included.
fn crates_used_in(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let end = if rest.starts_with('{') {
            rest.find(';').unwrap_or(rest.len())
        } else {
            0
        };
        if end == 0 {
            used.insert(leading_name(rest));
            continue;
        }
        let mut depth = 0;
        let mut segment_start = true;
        for (i, c) in rest[..end].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => segment_start = true,
                c if depth == 1 && segment_start && c.is_alphabetic() => {
                    used.insert(leading_name(&rest[i..]));
                    segment_start = false;
                }
                _ => {}
            }
        }
    }
    used
}

fn leading_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}
