//! The primer: each program of `examples/` is run as docs/PYTHON_FILE_IO.md says, what comes out is compared
//! with what stands there, and each claim is proved from the trace.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "primer/compiled.rs"]
mod compiled;
#[path = "primer/document.rs"]
mod document;
#[path = "primer/errors.rs"]
mod errors;
#[path = "primer/lesson.rs"]
mod lesson;
#[path = "primer/lessons.rs"]
mod lessons;
#[path = "support/process.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The programs that the document must walk through, relative to `examples`.
fn programs() -> BTreeSet<String> {
    let mut found = BTreeSet::from(["rust_buffering.rs".to_owned()]);
    for dir in ["python", "c"] {
        for entry in fs::read_dir(root().join("examples").join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.starts_with("__") {
                found.insert(format!("{dir}/{name}"));
            }
        }
    }
    found
}

/// What of `examples/` the text names, relative to it.
fn named(text: &str) -> BTreeSet<String> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || "_./".contains(c));
    text.split("../examples/")
        .skip(1)
        .map(|rest| rest.split(ends).next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_document_and_the_examples_name_each_other() {
    let text = document::text();
    assert_eq!(named(&text), programs());
    let run: String = document::sections()
        .flat_map(document::steps)
        .map(|step| step.command + "\n")
        .collect();
    assert_eq!(named(&run), programs(), "not every program is run");
    assert_eq!(
        programs()
            .iter()
            .filter(|p| p.starts_with("python"))
            .count(),
        13
    );
}

#[test]
fn every_source_that_is_cited_is_listed_and_the_other_way_round() {
    let text = document::text();
    let (body, sources) = text.split_once("\n## Sources\n").unwrap();
    let cited = |text: &str| -> BTreeSet<String> {
        text.split("\\[")
            .skip(1)
            .map(|rest| rest.split("\\]").next().unwrap().to_owned())
            .filter(|name| !name.starts_with("man "))
            .collect()
    };
    assert_eq!(cited(body), cited(sources));
}

#[test]
fn the_readme_leads_to_the_document() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains("(docs/PYTHON_FILE_IO.md)"));
}
