//! docs/PYTHON_FILE_IO.md as commands and what they showed.

use std::fs;

use crate::root;

/// A command of a `console` block, and the lines that stand under it.
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) shown: Vec<String>,
}

/// Stands for lines that the document leaves out.
const LEFT_OUT: &str = "...";

pub(crate) fn text() -> String {
    fs::read_to_string(root().join("docs/PYTHON_FILE_IO.md")).unwrap()
}

/// The sections, each from its title on.
pub(crate) fn sections() -> impl Iterator<Item = String> {
    let sections: Vec<String> = text().split("\n## ").map(str::to_owned).collect();
    sections.into_iter().skip(1)
}

/// The section whose title begins so.
pub(crate) fn section(title: &str) -> String {
    sections()
        .find(|section| section.starts_with(title))
        .unwrap_or_else(|| panic!("no section {title:?}"))
}

/// The steps of a section's `console` blocks.
pub(crate) fn steps(section: String) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in section.split("\n```console\n").skip(1) {
        for line in block.split("\n```").next().unwrap().lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                let (command, shown) = (command.to_owned(), Vec::new());
                steps.push(Step { command, shown });
            } else {
                let step = steps.last_mut().expect("output before a command");
                step.shown.push(line.to_owned());
            }
        }
    }
    steps
}

/// What differs between the lines of the document and those of a run, if anything. Their order is not
/// compared: lines of one moment may change places (docs/TRACE.md, Order).
pub(crate) fn difference(shown: &[String], found: &str) -> Option<String> {
    let mut found: Vec<String> = found.lines().map(comparable).collect();
    let mut missing = Vec::new();
    for line in shown.iter().filter(|line| *line != LEFT_OUT) {
        let wanted = comparable(line);
        match found.iter().position(|line| same(&wanted, line)) {
            Some(at) => drop(found.remove(at)),
            None => missing.push(wanted),
        }
    }
    let all = !shown.iter().any(|line| line == LEFT_OUT);
    let differs = !missing.is_empty() || (all && !found.is_empty());
    differs.then(|| {
        format!(
            "only in the document:\n{}\nonly in this run:\n{}",
            missing.join("\n"),
            found.join("\n")
        )
    })
}

/// A close may come without its system call: it could not be read in time (docs/TRACE.md, Who did it).
fn same(wanted: &str, found: &str) -> bool {
    wanted == found || (wanted.starts_with("flush(") && anonymous(wanted) == found)
}

fn anonymous(flush: &str) -> String {
    let (before, path) = flush.split_once('<').unwrap();
    let before = before.trim_end_matches(|c: char| c.is_ascii_digit());
    let words: Vec<&str> = path.split(' ').collect();
    let via = words.iter().position(|word| *word == "via");
    let kept = words.iter().enumerate().filter(|(at, _)| {
        let of_via = |via| *at == via || *at == via + 1;
        !via.is_some_and(of_via)
    });
    let kept: Vec<&str> = kept.map(|(_, word)| *word).collect();
    format!("{before}<{}", kept.join(" "))
}

/// A line without what is another one in each run: time, duration, process, numbers of operations, ages,
/// and the name of a temporary file.
fn comparable(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let after_age = words.last().is_some_and(|last| last == "age");
        if is_time(word) || is_duration(word) || is_process(word) || after_age {
            continue;
        }
        words.push(without_numbers(word));
    }
    words.join(" ")
}

fn is_time(word: &str) -> bool {
    word.len() == "00:00:00.000000".len() && word.bytes().filter(|b| *b == b':').count() == 2
}

fn is_duration(word: &str) -> bool {
    let inner = word.strip_prefix('<').and_then(|w| w.strip_suffix('>'));
    inner.is_some_and(|inner| inner.parse::<f64>().is_ok())
}

/// `name[1234]` or `name[1234:1235]`.
fn is_process(word: &str) -> bool {
    let inner = word.strip_suffix(']').and_then(|word| word.split_once('['));
    inner.is_some_and(|(name, ids)| {
        !name.is_empty() && ids.bytes().all(|b| b.is_ascii_digit() || b == b':')
    })
}

fn without_numbers(word: &str) -> String {
    let mut word = word.to_owned();
    if word.starts_with("(#") || word.starts_with('#') || word.starts_with("call=") {
        word.retain(|c| !c.is_ascii_digit());
    }
    // tempfile adds eight characters.
    if let Some(at) = word.find("/page-") {
        let from = at + "/page-".len();
        word.replace_range(from..from + 8, "");
    }
    word
}

#[test]
fn the_comparison_forgives_what_changes_and_nothing_else() {
    let shown = [
        "python3[7] flush(3</a>) = 0 fh=1 via close writeback 9 in 1 run (close), dirty 0".to_owned(),
        "iolens writeback(</a>, size=9, offset=0) = 9 close for #5, 1 block, 1 write (#4..#4), age 0.1".to_owned(),
    ];
    let found = "12:00:00.123456 iolens writeback(</a>, size=9, offset=0) = 9 <0.000001> close for #15, \
                 1 block, 1 write (#14..#14), age 2.5\n\
                 12:00:00.123456 python3[9:10] flush(</a>) = 0 <0.5> fh=1 writeback 9 in 1 run (close), dirty 0\n";
    assert_eq!(difference(&shown, found), None);
    assert!(difference(&shown, &found.replace("size=9", "size=8")).is_some());
    assert!(difference(&shown, &format!("{found}more\n")).is_some());
    let open = [shown[0].clone(), LEFT_OUT.to_owned()];
    assert_eq!(difference(&open, found), None);
    assert!(difference(&open, "more\n").is_some());
}
