//! What strace wrote, read back: each call with its arguments, and the order in which calls were entered and left.

use std::collections::HashMap;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    Value(i64),
    Error(String),
    /// The thread was killed in it, or it is one that does not return.
    Never,
    /// A signal has come before anything was done, and the thread makes the same call again next.
    Again,
}

/// A system call as strace saw it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) tid: u32,
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) returned: Returned,
    /// The path that the returned descriptor leads to.
    pub(crate) path: Option<String>,
    /// As strace wrote it, for messages.
    pub(crate) text: String,
    /// Lines of entry and exit.
    pub(crate) entered: usize,
    pub(crate) left: usize,
}

/// What happened, in the order in which strace saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    Enter(usize),
    Leave(usize),
    /// The thread is no more.
    Gone(u32),
}

/// All that strace saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) calls: Vec<Call>,
    pub(crate) moments: Vec<Moment>,
}

const UNFINISHED: &str = " <unfinished ...>";

impl Seen {
    pub(crate) fn parse(text: &str) -> Seen {
        let mut seen = Seen::default();
        let mut pending: HashMap<u32, usize> = HashMap::new();
        let mut last: HashMap<u32, usize> = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let (tid, rest) = line.split_once(' ').unwrap();
            let (_time, rest) = rest.trim_start().split_once(' ').unwrap();
            let tid: u32 = tid.parse().unwrap();
            if rest.starts_with("+++ ") {
                seen.moments.push(Moment::Gone(tid));
                if let Some(last) = last.remove(&tid) {
                    seen.killed_in(last);
                }
            } else if rest.starts_with("--- ") {
                // A signal.
            } else if let Some(resumed) = rest.strip_prefix("<... ") {
                let (_, rest) = resumed.split_once(" resumed>").unwrap();
                let call = pending.remove(&tid).unwrap();
                seen.calls[call].text.push_str(rest);
                seen.leave(call, at);
            } else {
                let (text, unfinished) = match rest.strip_suffix(UNFINISHED) {
                    Some(text) => (text, true),
                    None => (rest, false),
                };
                let call = seen.enter(tid, text, at);
                last.insert(tid, call);
                if unfinished {
                    pending.insert(tid, call);
                } else {
                    seen.leave(call, at);
                }
            }
        }
        for call in pending.into_values() {
            seen.finish(call, usize::MAX);
        }
        seen.mark_made_again();
        seen
    }

    /// The kernel restarts a call only where nothing was done of it: what was would be its result.
    fn mark_made_again(&mut self) {
        let mut interrupted: HashMap<u32, usize> = HashMap::new();
        let mut again = Vec::new();
        for (at, call) in self.calls.iter().enumerate() {
            if let Some(before) = interrupted.remove(&call.tid)
                && self.calls[before].is_same(call)
            {
                again.push(before);
            }
            if call.text.contains("= ? ERESTART") {
                interrupted.insert(call.tid, at);
            }
        }
        for call in again {
            self.calls[call].returned = Returned::Again;
        }
    }

    /// Of a thread that did not end by itself, strace may have a result of its last call that is none: the registers
    /// of a thread that is being killed.
    fn killed_in(&mut self, last: usize) {
        let call = &mut self.calls[last];
        if !["exit", "exit_group", "clone", "clone3", "fork", "vfork"].contains(&call.name.as_str())
        {
            call.returned = Returned::Never;
        }
    }

    fn enter(&mut self, tid: u32, text: &str, at: usize) -> usize {
        let (name, _) = text.split_once('(').unwrap_or((text, ""));
        self.calls.push(Call {
            tid,
            name: name.to_owned(),
            args: Vec::new(),
            returned: Returned::Never,
            path: None,
            text: text.to_owned(),
            entered: at,
            left: usize::MAX,
        });
        self.moments.push(Moment::Enter(self.calls.len() - 1));
        self.calls.len() - 1
    }

    fn leave(&mut self, call: usize, at: usize) {
        self.finish(call, at);
        self.moments.push(Moment::Leave(call));
    }

    fn finish(&mut self, call: usize, at: usize) {
        let call = &mut self.calls[call];
        call.left = at;
        let text = call.text.replace(UNFINISHED, "");
        let Some((_, rest)) = text.split_once('(') else {
            return;
        };
        let (args, rest) = split_arguments(rest);
        call.args = args;
        let Some(result) = rest.trim_start().strip_prefix("= ") else {
            return;
        };
        let mut words = result.split(' ');
        let value = words.next().unwrap_or("?");
        (call.returned, call.path) = match value {
            // With a name (ERESTARTSYS) a signal has come before the result was known: one that kills, or after which the
            // call is made again.
            "?" => (Returned::Never, None),
            "-1" => (
                Returned::Error(words.next().unwrap_or("?").to_owned()),
                None,
            ),
            value => (Returned::Value(number(value).unwrap()), path(value)),
        };
    }
}

/// The arguments up to the closing parenthesis, and what follows.
fn split_arguments(text: &str) -> (Vec<String>, &str) {
    let mut args = Vec::new();
    let (mut depth, mut quoted, mut escaped, mut in_path, mut last) = (0, false, false, false, ' ');
    let mut start = 0;
    for (at, c) in text.char_indices() {
        if quoted {
            (quoted, escaped) = (escaped || c != '"', c == '\\' && !escaped);
        } else if in_path {
            in_path = c != '>';
        } else {
            match c {
                '"' => quoted = true,
                '<' if last.is_ascii_digit() => in_path = true,
                '(' | '[' | '{' => depth += 1,
                ')' if depth == 0 => {
                    args.push(text[start..at].trim().to_owned());
                    return (args, &text[at + 1..]);
                }
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    args.push(text[start..at].trim().to_owned());
                    start = at + 1;
                }
                _ => {}
            }
        }
        last = c;
    }
    args.push(text[start..].trim().to_owned());
    (args, "")
}

/// `3</path>`, `0x1f`, `0644`, `-5`, `0x1200000|17`.
pub(crate) fn number(text: &str) -> Option<i64> {
    let parts = text.split('<').next()?.split('|');
    let parse = |part: &str| -> Option<i64> {
        let part = part.trim();
        if let Some(hex) = part.strip_prefix("0x") {
            return u64::from_str_radix(hex, 16).ok().map(u64::cast_signed);
        }
        match part.parse::<i64>() {
            Ok(value) => Some(value),
            Err(_) => part.parse::<u64>().ok().map(u64::cast_signed),
        }
    };
    let mut all = 0;
    for part in parts {
        all |= parse(part)?;
    }
    Some(all)
}

fn path(text: &str) -> Option<String> {
    let (_, path) = text.split_once('<')?;
    Some(path.split('>').next()?.to_owned())
}

impl Call {
    pub(crate) fn number(&self, arg: usize) -> Option<i64> {
        number(self.args.get(arg)?)
    }

    pub(crate) fn bits(&self, arg: usize) -> u64 {
        self.number(arg).unwrap_or(0).cast_unsigned()
    }

    /// The descriptor: the kernel takes the lower half of the register.
    pub(crate) fn fd(&self, arg: usize) -> i32 {
        i32::try_from(self.number(arg).unwrap_or(-1)).unwrap_or(-1)
    }

    /// The path of the descriptor that an argument is.
    pub(crate) fn path_of(&self, arg: usize) -> Option<String> {
        path(self.args.get(arg)?)
    }

    /// The bytes of a vector; unknown where strace could not read it.
    pub(crate) fn vector_bytes(&self, arg: usize) -> Option<u64> {
        let text = self.args.get(arg)?;
        if !text.starts_with('[') {
            return None;
        }
        let lengths = text.split("iov_len=").skip(1);
        let length = |part: &str| {
            let end = part
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len());
            part[..end].parse::<u64>().unwrap()
        };
        Some(lengths.map(length).fold(0, u64::saturating_add))
    }

    fn is_same(&self, other: &Call) -> bool {
        // What the kernel changes is shown before and after.
        let given = |arg: &String| arg.split(" => ").next().map(str::to_owned);
        let given = |call: &Call| call.args.iter().map(given).collect::<Vec<_>>();
        self.name == other.name && given(self) == given(other)
    }

    pub(crate) fn ok(&self) -> Option<u64> {
        match self.returned {
            Returned::Value(value) => Some(value.cast_unsigned()),
            Returned::Error(_) | Returned::Never | Returned::Again => None,
        }
    }

    pub(crate) fn failed_with(&self, names: &[&str]) -> bool {
        matches!(&self.returned, Returned::Error(name) if names.contains(&name.as_str()))
    }
}

#[test]
fn lines_of_strace_are_read_back() {
    let seen = Seen::parse(
        r#"11    1.5 openat(-100</a,b>, "x\")", 0x42, 0644) = 3</v/x>
11    1.5 readv(3</v/x>, [{iov_base=""..., iov_len=5}, {iov_base="", iov_len=7}], 2 <unfinished ...>
12    1.6 --- SIGCHLD {si_signo=SIGCHLD} ---
12    1.6 fallocate(3</v/x>(deleted), 0, -3, 18446744073709551615) = -1 EINVAL (Invalid argument)
11    1.7 <... readv resumed>) = 12
12    1.8 write(3</v/x>, ""..., 9 <unfinished ...>) = ?
12    1.9 +++ killed by SIGKILL +++
13    2.0 sendfile(3</v/x>, 4</m>, [7], 9 <unfinished ...>
13    2.1 <... sendfile resumed>) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)
13    2.1 --- SIGALRM {si_signo=SIGALRM} ---
13    2.2 sendfile(3</v/x>, 4</m>, [7] => [16], 9) = 9
13    2.3 fsync(3</v/x>) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)
13    2.4 exit_group(0) = ?
"#,
    );
    let calls = &seen.calls;
    assert_eq!(calls.len(), 8);
    let ends = |at: usize| calls[at].returned.clone();
    assert_eq!((ends(4), ends(5)), (Returned::Again, Returned::Value(9)));
    assert_eq!(ends(6), Returned::Never);
    assert_eq!(
        (calls[0].args.len(), calls[0].path.as_deref()),
        (4, Some("/v/x"))
    );
    assert_eq!(
        (calls[1].vector_bytes(1), calls[1].ok()),
        (Some(12), Some(12))
    );
    assert!(calls[2].failed_with(&["EINVAL"]) && calls[2].entered < calls[1].left);
    assert_eq!((calls[2].number(2), calls[2].bits(3)), (Some(-3), u64::MAX));
    assert_eq!(
        (&calls[3].returned, calls[3].bits(2)),
        (&Returned::Never, 9)
    );
}
