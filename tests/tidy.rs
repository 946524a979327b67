//! The rules of the code's shape (docs/ARCHITECTURE.md), as a test: layers, sizes, `unsafe`, `unwrap`,
//! module docs.

#![allow(clippy::unwrap_used)] // A check that cannot read the code has failed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module and the modules of iolens that it may import; itself always. Nothing else: an import
/// that is not here points up.
const LAYERS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("error", &[]),
    ("sys", &["error", "types"]),
    ("cache", &["types"]),
    ("event", &["types"]),
    ("caller", &["types", "error", "sys"]),
    ("trace", &["types", "error", "event"]),
    ("backing", &["types", "error", "sys"]),
    ("analysis", &["types", "error", "event", "trace"]),
    ("render", &["types", "error", "event", "trace", "analysis"]),
    (
        "buffer",
        &["types", "error", "sys", "cache", "event", "backing"],
    ),
    (
        "fs",
        &[
            "types", "error", "sys", "cache", "event", "caller", "backing", "trace", "buffer",
        ],
    ),
    ("workers", &["types", "error", "sys", "fs"]),
    ("fuse", &["types", "error", "sys", "fs", "workers"]),
    ("uring", &["types", "error", "sys", "fs", "workers"]),
    ("mount", &["types", "error", "sys"]),
    (
        "server",
        &[
            "types", "error", "sys", "event", "trace", "analysis", "render", "buffer", "fs",
            "fuse", "uring", "mount",
        ],
    ),
    (
        "run",
        &["types", "error", "sys", "buffer", "mount", "server"],
    ),
    (
        "cli",
        &[
            "types", "error", "sys", "event", "trace", "analysis", "render", "buffer", "fs",
            "fuse", "uring", "mount", "server", "run",
        ],
    ),
    ("main", &["cli", "iolens"]),
    ("lib", &[]),
];

/// Lines of a file before its tests.
const FILE_LINES_MAX: usize = 400;
/// Lines of a function, from its signature to its closing brace.
const FUNCTION_LINES_MAX: usize = 60;

struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

impl Source {
    /// The text without the tests at its end.
    fn code(&self) -> &str {
        let tests = self.text.find("\n#[cfg(test)]\nmod tests {");
        &self.text[..tests.unwrap_or(self.text.len())]
    }

    fn is_test_file(&self) -> bool {
        let mut parts = self.path.iter();
        parts.any(|part| part == "tests" || part == "tests.rs")
    }
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut dirs = vec![src.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let below = path.strip_prefix(&src).unwrap();
                let first = below.iter().next().unwrap().to_str().unwrap();
                let module = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source {
                    path: below.to_owned(),
                    module,
                    text,
                });
            }
        }
    }
    assert!(
        found.len() > 20,
        "only {} files found under src",
        found.len()
    );
    found
}

fn assert_none(what: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{what}:\n  {}", offences.join("\n  "));
}

fn code_lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let lines = source.code().lines().enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn imports_point_down_the_layers() {
    let mut offences = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == source.module) else {
            offences.push(format!("{} is in no layer", source.path.display()));
            continue;
        };
        for (at, line) in code_lines(&source) {
            for part in line.split("crate::").skip(1) {
                let names = imported_modules(part);
                for name in names {
                    let fine = name == source.module || allowed.contains(&name.as_str());
                    let module = LAYERS.iter().any(|(known, _)| *known == name);
                    if module && !fine {
                        offences.push(format!(
                            "{}:{} imports {name}",
                            source.path.display(),
                            at + 1
                        ));
                    }
                }
            }
        }
    }
    assert_none("imports that point up", &offences);
}

/// `a::B` gives a; `{a::B, c}` gives a and c.
fn imported_modules(after_crate: &str) -> BTreeSet<String> {
    let list = after_crate.strip_prefix('{').unwrap_or(after_crate);
    let items = if list.len() == after_crate.len() {
        vec![list]
    } else {
        list.split(',').collect()
    };
    items
        .into_iter()
        .map(|item| {
            let item = item.trim();
            let end = item.find(|c: char| !c.is_alphanumeric() && c != '_');
            item[..end.unwrap_or(item.len())].to_owned()
        })
        .collect()
}

#[test]
fn only_the_fuse_edge_names_fuser() {
    let offences: Vec<_> = sources()
        .iter()
        .filter(|source| source.module != "fuse")
        .flat_map(|source| {
            let lines = code_lines(source)
                .filter(|(_, line)| line.contains("fuser::") || line.contains("use fuser"));
            lines
                .map(|(at, _)| format!("{}:{}", source.path.display(), at + 1))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_none("fuser named outside src/fuse", &offences);
}

#[test]
fn only_sys_holds_unsafe_code_and_each_says_why() {
    let mut offences = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if !code.contains("unsafe {") && !code.contains("unsafe fn") {
                continue;
            }
            // The kernel takes and gives the entries of a ring.
            let ring = source.path.ends_with("uring/queue.rs");
            if source.module != "sys" && !ring {
                offences.push(format!("{}:{} is unsafe", source.path.display(), at + 1));
            }
        }
    }
    // That each block has its SAFETY comment is clippy's `undocumented_unsafe_blocks`, denied.
    assert_none("unsafe outside src/sys and the rings", &offences);
}

#[test]
fn nothing_unwraps_outside_tests() {
    let offences: Vec<_> = sources()
        .iter()
        .filter(|source| !source.is_test_file())
        .flat_map(|source| {
            let lines = code_lines(source).filter(|(_, line)| line.contains(".unwrap()"));
            lines
                .map(|(at, _)| format!("{}:{}", source.path.display(), at + 1))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_none("unwrap outside tests", &offences);
}

#[test]
fn files_and_functions_stay_short() {
    let mut offences = Vec::new();
    for source in sources() {
        if source.is_test_file() {
            continue;
        }
        let count = source.code().lines().count();
        if count > FILE_LINES_MAX {
            offences.push(format!("{}: {count} lines", source.path.display()));
        }
        for (name, lines) in functions(source.code()) {
            if lines > FUNCTION_LINES_MAX {
                offences.push(format!("{}: {name}: {lines} lines", source.path.display()));
            }
        }
    }
    assert_none("too long", &offences);
}

/// Functions and their lengths, by rustfmt's indentation: a function ends at the closing brace that
/// stands as deep as its first line.
fn functions(code: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        let Some(at) = text.find("fn ") else { continue };
        let before = &text[..at];
        let words = ["pub", "pub(super)", "pub(crate)", "const", "unsafe"];
        if !before.split_whitespace().all(|word| words.contains(&word)) {
            continue;
        }
        // The declaration of a trait's method has no body.
        let opens = |line: &&&str| line.ends_with('{') || line.ends_with(';');
        if lines[start..]
            .iter()
            .find(opens)
            .is_some_and(|line| line.ends_with(';'))
        {
            continue;
        }
        let indent = &line[..line.len() - text.len()];
        let close = format!("{indent}}}");
        let end = lines[start..].iter().position(|l| *l == close);
        let name = text[at + 3..].split(['(', '<']).next().unwrap().to_owned();
        found.push((name, end.map_or(0, |end| end + 1)));
    }
    found
}

#[test]
fn every_module_says_what_it_is_for() {
    let offences: Vec<_> = sources()
        .iter()
        .filter(|source| !source.is_test_file() && !source.text.starts_with("//! "))
        .map(|source| source.path.display().to_string())
        .collect();
    assert_none("modules without a `//!` opening", &offences);
}

#[test]
fn the_rules_catch_what_they_are_for() {
    let long = format!("fn long() {{\n{}}}\n", "    work();\n".repeat(70));
    assert_eq!(functions(&long), [("long".to_owned(), 72)]);
    let declared = format!("trait T {{\n    fn short(\n        &self,\n    );\n}}\n{long}");
    assert_eq!(functions(&declared), [("long".to_owned(), 72)]);
    assert_eq!(
        imported_modules("{fs::Fs, types}").len(),
        2,
        "a braced import has two modules"
    );
    assert!(imported_modules("fs::Fs;").contains("fs"));
}
