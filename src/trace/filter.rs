//! What to record: `--only-path`, `--only-op`, `--only-pid`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::event::OpKind;
use crate::types::{Pid, Tid};

/// Path patterns, matched against paths below SOURCE. A pattern without `/` is matched against the
/// last component (`*.txt` at any depth); one with `/` against the whole path, where `*` stays within
/// a component and `**` does not. A leading `/` stands for SOURCE.
#[derive(Clone, Debug, Default)]
pub struct PathGlobs {
    typed: Vec<String>,
    names: GlobSet,
    paths: GlobSet,
}

impl PathGlobs {
    /// # Errors
    /// A sentence naming the pattern that is none.
    pub fn new<S: AsRef<str>>(typed: &[S]) -> Result<PathGlobs, String> {
        let mut names = GlobSetBuilder::new();
        let mut paths = GlobSetBuilder::new();
        for pattern in typed {
            let pattern = pattern.as_ref();
            match pattern.strip_prefix('/') {
                Some("") => paths.add(compile(".")?),
                Some(below) => paths.add(compile(below)?),
                None if pattern.contains('/') => paths.add(compile(pattern)?),
                None => names.add(compile(pattern)?),
            };
        }
        let built = |set: GlobSetBuilder| set.build().map_err(|error| error.to_string());
        Ok(PathGlobs {
            typed: typed.iter().map(|text| text.as_ref().to_owned()).collect(),
            names: built(names)?,
            paths: built(paths)?,
        })
    }

    /// Whether there is no pattern, so that everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.typed.is_empty()
    }

    /// Whether the path below SOURCE matches any pattern.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let name = path.file_name().unwrap_or(path.as_os_str());
        self.is_empty() || self.paths.is_match(path) || self.names.is_match(Path::new(name))
    }
}

fn compile(pattern: &str) -> Result<Glob, String> {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .build()
        .map_err(|error| format!("{pattern:?} is not a glob: {}", error.kind()))
}

/// Which operations are recorded; the default is all. Within one list any entry will do, and all
/// lists that are not empty must agree.
#[derive(Clone, Debug, Default)]
pub struct CaptureFilter {
    /// `--only-path`
    pub paths: PathGlobs,
    /// `--only-op`
    pub ops: Vec<OpKind>,
    /// `--only-pid`: matches the process or the thread.
    pub pids: Vec<Pid>,
}

impl CaptureFilter {
    /// The filters as typed, for the header; empty when everything is recorded.
    #[must_use]
    pub fn described(&self) -> Vec<String> {
        let paths = self
            .paths
            .typed
            .iter()
            .map(|glob| format!("--only-path={glob}"));
        let ops = self.ops.iter().map(|op| format!("--only-op={}", op.name()));
        let pids = self.pids.iter().map(|pid| format!("--only-pid={pid}"));
        paths.chain(ops).chain(pids).collect()
    }

    /// Whether what no operation asked for is recorded: a writeback, say. `path` as for
    /// [`wants`](Self::wants). Who wants only certain operations or processes does not want it.
    pub fn wants_unasked(&self, path: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        self.ops.is_empty()
            && self.pids.is_empty()
            && (self.paths.is_empty() || path().is_some_and(|path| self.paths.matches(&path)))
    }

    /// Whether this operation is recorded. `path` (below SOURCE) is only asked for when a path
    /// decides; an operation without a path does not pass a path filter.
    pub fn wants(
        &self,
        kind: OpKind,
        pid: Option<Pid>,
        tid: Tid,
        path: impl FnOnce() -> Option<OsString>,
    ) -> bool {
        let by_pid = |wanted: &Pid| pid == Some(*wanted) || tid.0 == wanted.0;
        (self.ops.is_empty() || self.ops.contains(&kind))
            && (self.pids.is_empty() || self.pids.iter().any(by_pid))
            && (self.paths.is_empty()
                || path().is_some_and(|path| self.paths.matches(path.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(typed: &[&str]) -> PathGlobs {
        PathGlobs::new(typed).unwrap()
    }

    #[test]
    fn a_glob_without_slash_matches_names_at_any_depth() {
        let set = globs(&["*.txt", "Makefile"]);
        assert!(set.matches(b"a.txt"));
        assert!(set.matches(b"deep/down/a.txt"));
        assert!(set.matches(b"deep/Makefile"));
        assert!(!set.matches(b"a.txt/other"));
        assert!(set.matches(b"bad-\xff.txt"));
    }

    #[test]
    fn a_glob_with_slash_matches_the_whole_path() {
        let set = globs(&["src/*.rs", "/top.txt", "logs/**"]);
        assert!(set.matches(b"src/a.rs"));
        assert!(!set.matches(b"src/deep/a.rs"));
        assert!(!set.matches(b"x/src/a.rs"));
        assert!(set.matches(b"top.txt"));
        assert!(!set.matches(b"x/top.txt"));
        assert!(set.matches(b"logs/a/b/c"));
        assert!(globs(&["/"]).matches(b"."));
    }

    #[test]
    fn a_broken_glob_is_named_in_the_error() {
        assert!(PathGlobs::new(&["a[b"]).unwrap_err().contains("a[b"));
    }

    #[test]
    fn no_path_is_computed_without_a_path_filter() {
        let filter = CaptureFilter {
            ops: vec![OpKind::Write],
            pids: vec![Pid(7)],
            ..CaptureFilter::default()
        };
        let never = || panic!("computed a path for nothing");
        assert!(filter.wants(OpKind::Write, Some(Pid(7)), Tid(8), never));
        assert!(filter.wants(OpKind::Write, None, Tid(7), never));
        assert!(!filter.wants(OpKind::Read, Some(Pid(7)), Tid(7), never));
        assert!(!filter.wants(OpKind::Write, Some(Pid(9)), Tid(9), never));
        assert_eq!(filter.described(), ["--only-op=write", "--only-pid=7"]);
    }

    #[test]
    fn a_path_filter_refuses_operations_without_a_path() {
        let filter = CaptureFilter {
            paths: globs(&["*.txt"]),
            ..CaptureFilter::default()
        };
        assert!(filter.wants(OpKind::Read, None, Tid(1), || Some("d/a.txt".into())));
        assert!(!filter.wants(OpKind::Read, None, Tid(1), || Some("d/a.rs".into())));
        assert!(!filter.wants(OpKind::Statfs, None, Tid(1), || None));
    }
}
