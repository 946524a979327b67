//! Reading a trace back: one line at a time, in bounded memory.
//!
//! What must hold: no input makes it panic or hold more than [`LINE_BYTES`]; a trace that was cut (by
//! a crash, a full disk, a `head`) is read up to the cut, and the cut is told.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::thread;
use std::time::Duration;

use thiserror::Error;

use crate::event::{Event, Op, SCHEMA_VERSION};

/// The longest line that is read. The header holds CMD's arguments, at most 2 MiB (`ARG_MAX` under the
/// usual stack limit) and up to six times that when escaped; other lines are a few kilobytes.
pub const LINE_BYTES: usize = 16 << 20;

/// How often a followed trace is looked at. Not inotify: it sees no writes of other machines.
const POLL: Duration = Duration::from_millis(100);

/// How every line of an operation begins, as the recorder writes it.
const OP_PREFIX: &[u8] = br#"{"kind":"op","#;

/// What a trace holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An event and the number of its line, from 1.
    Event(u64, Event),
    /// The end, once; nothing follows.
    End(Ending),
}

/// How a trace ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With its footer.
    Footer,
    /// After a whole line, without a footer: its server still runs, or was killed.
    NoFooter,
    /// Within the line of this number, which is not told.
    Cut(u64),
}

/// Why a trace, or a line of it, cannot be read.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file cannot be read: nothing follows.
    #[error("cannot read the trace: {0}")]
    Io(#[from] io::Error),
    /// Something else is in the file: nothing follows.
    #[error("this is not an iolens trace: {0}")]
    NotATrace(String),
    /// A trace of another version: nothing follows.
    #[error(
        "the trace has schema version {found}, and this iolens reads version {SCHEMA_VERSION}: use the iolens that wrote it (version {by})"
    )]
    Schema {
        /// The version in the header.
        found: u64,
        /// The iolens that wrote it, as it says.
        by: String,
    },
    /// A line is none of a trace; reading goes on behind it.
    #[error("line {line} of the trace is damaged: {what}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Begin,
    Within,
    Footer,
    Over,
}

/// Iterates over the lines of a trace.
#[derive(Debug)]
pub struct Reader<R> {
    input: BufReader<R>,
    follow: bool,
    state: State,
    line: u64,
    bytes: Vec<u8>,
}

/// How far reading a line came.
enum Got {
    Line,
    TooLong,
    /// The input ended within a line.
    Part,
    End,
}

impl Reader<File> {
    /// Opens a trace.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn open(path: &Path) -> io::Result<Reader<File>> {
        Ok(Reader::new(File::open(path)?))
    }
}

impl<R: Read> Reader<R> {
    /// Reads what is there.
    pub fn new(input: R) -> Reader<R> {
        Reader {
            input: BufReader::with_capacity(256 << 10, input),
            follow: false,
            state: State::Begin,
            line: 0,
            bytes: Vec::new(),
        }
    }

    /// Where the input ends before the footer, waits for more instead of ending.
    #[must_use]
    pub fn follow(mut self) -> Reader<R> {
        self.follow = true;
        self
    }

    fn read_line(&mut self) -> io::Result<Got> {
        self.bytes.clear();
        let mut too_long = false;
        loop {
            let part = match self.input.fill_buf() {
                Ok(part) => part,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if part.is_empty() {
                if self.follow {
                    thread::sleep(POLL);
                    continue;
                }
                let nothing = self.bytes.is_empty() && !too_long;
                return Ok(if nothing { Got::End } else { Got::Part });
            }
            let end = part.iter().position(|&byte| byte == b'\n');
            let taken = &part[..end.unwrap_or(part.len())];
            if self.bytes.len() + taken.len() > LINE_BYTES {
                too_long = true;
                self.bytes = Vec::new();
            }
            if !too_long {
                self.bytes.extend_from_slice(taken);
            }
            let used = end.map_or(part.len(), |end| end + 1);
            self.input.consume(used);
            if end.is_some() {
                return Ok(if too_long { Got::TooLong } else { Got::Line });
            }
        }
    }

    fn step(&mut self) -> Result<Item, TraceError> {
        if self.follow && self.state == State::Footer {
            return Ok(self.end(Ending::Footer));
        }
        let got = self.read_line().inspect_err(|_| self.state = State::Over)?;
        self.line += 1;
        match (got, self.state) {
            (Got::End | Got::Part, State::Begin) if self.bytes.is_empty() => {
                self.fatal(TraceError::NotATrace("it is empty".to_owned()))
            }
            (Got::End, State::Footer) => Ok(self.end(Ending::Footer)),
            (Got::End, _) => Ok(self.end(Ending::NoFooter)),
            (Got::TooLong, State::Begin) => self.fatal(TraceError::NotATrace(
                "its first line never ends".to_owned(),
            )),
            (Got::TooLong, _) => self.damaged(format!("it is longer than {LINE_BYTES} bytes")),
            (Got::Part, _) => self.last_part(),
            (Got::Line, State::Begin) => self.first_line(),
            (Got::Line, State::Footer) => self.damaged("it follows the footer".to_owned()),
            (Got::Line, _) => self.later_line(),
        }
    }

    fn end(&mut self, ending: Ending) -> Item {
        self.state = State::Over;
        Item::End(ending)
    }

    fn fatal(&mut self, error: TraceError) -> Result<Item, TraceError> {
        self.state = State::Over;
        Err(error)
    }

    fn damaged(&self, what: String) -> Result<Item, TraceError> {
        Err(TraceError::Line {
            line: self.line,
            what,
        })
    }

    /// The input ended without a newline. A line that is whole but for that is told (somebody's editor
    /// or `truncate`); else the trace was cut there.
    fn last_part(&mut self) -> Result<Item, TraceError> {
        match (self.state, parse(&self.bytes)) {
            (State::Begin, _) => self.first_line(),
            (State::Within, Ok(event)) => self.accept(event),
            _ => Ok(self.end(Ending::Cut(self.line))),
        }
    }

    fn later_line(&mut self) -> Result<Item, TraceError> {
        match parse(&self.bytes) {
            Ok(Event::Header(_)) => self.damaged("it is a second header".to_owned()),
            Ok(event) => self.accept(event),
            Err(error) => self.damaged(error.to_string()),
        }
    }

    fn accept(&mut self, event: Event) -> Result<Item, TraceError> {
        if matches!(event, Event::Footer(_)) {
            self.state = State::Footer;
        }
        Ok(Item::Event(self.line, event))
    }

    fn first_line(&mut self) -> Result<Item, TraceError> {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(&self.bytes) else {
            return self.fatal(TraceError::NotATrace(
                "its first line is not JSON".to_owned(),
            ));
        };
        if value["kind"] != "header" {
            return self.fatal(TraceError::NotATrace(
                "its first line is no header".to_owned(),
            ));
        }
        let found = value["schema"].as_u64();
        if found != Some(u64::from(SCHEMA_VERSION)) {
            return self.fatal(TraceError::Schema {
                found: found.unwrap_or_default(),
                by: value["version"]
                    .as_str()
                    .unwrap_or("unknown")
                    .escape_debug()
                    .to_string(),
            });
        }
        match parse(&self.bytes) {
            Ok(event) => {
                self.state = State::Within;
                Ok(Item::Event(self.line, event))
            }
            Err(error) => self.fatal(TraceError::NotATrace(format!(
                "its header is damaged: {error}"
            ))),
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Item, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.state != State::Over).then(|| self.step())
    }
}

/// One line as an event. Operations, nearly all of a trace, skip serde's tagged enum, which would
/// first gather the whole line as a tree to find its tag.
fn parse(line: &[u8]) -> serde_json::Result<Event> {
    let event = if line.starts_with(OP_PREFIX) {
        Event::Op(serde_json::from_slice::<Box<Op>>(line)?)
    } else {
        serde_json::from_slice(line)?
    };
    match &event {
        Event::Op(op) => {
            is_name("errno", op.errno.as_deref())?;
            is_name("syscall", op.syscall.as_deref())?;
            op.flags
                .iter()
                .try_for_each(|flag| is_name("flags", Some(flag)))?;
        }
        Event::Writeback(done) => is_name("errno", done.errno.as_deref())?,
        _ => {}
    }
    Ok(event)
}

/// What stands for a system call, an error or a flag is its name: whoever prints it need not escape it.
fn is_name(field: &str, value: Option<&str>) -> serde_json::Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match value {
        Some(name) if !name.bytes().all(plain) => Err(serde::de::Error::custom(format_args!(
            "{field} is no name: {name:?}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Footer, Header, Lost, OpKind};
    use crate::trace::jsonl;
    use crate::types::{Nanos, Seq};

    fn header() -> Event {
        Event::Header(Box::new(Header {
            schema: SCHEMA_VERSION,
            ..Header::default()
        }))
    }

    fn sample() -> Vec<u8> {
        let mut op = Op::new(OpKind::Open, Seq(1), Nanos(5));
        op.path = Some("a\"\n\u{1b}é".into());
        op.flags = crate::event::open_flag_names(libc::O_RDWR | libc::O_CREAT);
        let lost = Lost {
            seq: Seq(2),
            ts_ns: Nanos(7),
            count: 0,
        };
        let events = [
            header(),
            Event::Op(Box::new(op)),
            Event::Lost(lost),
            Event::Footer(Box::default()),
        ];
        let mut bytes = Vec::new();
        let mut format = jsonl();
        events.iter().for_each(|event| format(event, &mut bytes));
        bytes
    }

    fn read(bytes: &[u8]) -> Vec<Result<Item, TraceError>> {
        Reader::new(bytes).collect()
    }

    #[test]
    fn a_whole_trace_reads_back_as_it_was_written() {
        let items: Vec<Item> = read(&sample()).into_iter().map(Result::unwrap).collect();
        assert_eq!(items.len(), 5);
        assert_eq!(items[0], Item::Event(1, header()));
        let Item::Event(2, Event::Op(op)) = &items[1] else {
            panic!("{:?}", items[1])
        };
        assert_eq!(op.path.as_deref(), Some("a\"\n\u{1b}é"));
        assert_eq!(
            items[3],
            Item::Event(4, Event::Footer(Box::<Footer>::default()))
        );
        assert_eq!(items[4], Item::End(Ending::Footer));
    }

    #[test]
    fn a_trace_cut_at_any_byte_is_read_up_to_the_cut() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            let part = &bytes[..cut];
            let whole = part.iter().filter(|&&byte| byte == b'\n').count();
            let items = read(part);
            if whole == 0 && bytes.get(cut) != Some(&b'\n') {
                assert!(
                    matches!(items[..], [Err(TraceError::NotATrace(_))]),
                    "cut at {cut}"
                );
                continue;
            }
            let told = items
                .iter()
                .filter(|item| matches!(item, Ok(Item::Event(..))))
                .count();
            let newline_only_missing = usize::from(bytes[cut] == b'\n');
            assert_eq!(told, whole + newline_only_missing, "cut at {cut}");
            let end = items.last().unwrap().as_ref().unwrap();
            match end {
                Item::End(Ending::Cut(line)) => assert_eq!(*line, whole as u64 + 1),
                Item::End(Ending::NoFooter) => {}
                Item::End(Ending::Footer) => assert_eq!(cut, bytes.len() - 1),
                Item::Event(..) => panic!("no end at {cut}"),
            }
        }
    }

    #[test]
    fn garbage_between_lines_is_an_error_with_its_number_and_reading_goes_on() {
        let text = String::from_utf8(sample()).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.insert(1, "{\"kind\":\"op\",\"seq\":}");
        lines.insert(2, "");
        lines.insert(3, "{\"kind\":\"nonsense\"}");
        let forged = text.lines().nth(1).unwrap();
        let forged = forged.replace("{\"kind\":\"op\",", "{\"kind\": \"op\",\"errno\":\"E\\n\",");
        lines.insert(4, &forged);
        lines.push("{}");
        let items = read((lines.join("\n") + "\n").as_bytes());
        let bad: Vec<u64> = items
            .iter()
            .filter_map(|item| match item {
                Err(TraceError::Line { line, .. }) => Some(*line),
                _ => None,
            })
            .collect();
        assert_eq!(bad, [2, 3, 4, 5, 9]);
        assert!(matches!(items.last(), Some(Ok(Item::End(Ending::Footer)))));
    }

    #[test]
    fn another_schema_version_is_refused_by_its_number() {
        let items = read(b"{\"kind\":\"header\",\"schema\":2,\"version\":\"9.1\"}\n{}\n");
        assert_eq!(items.len(), 1);
        let text = items[0].as_ref().unwrap_err().to_string();
        assert!(text.contains("version 2") && text.contains("9.1"), "{text}");
    }

    #[test]
    fn other_files_are_no_traces() {
        for bytes in [
            &b""[..],
            b"hello\n",
            b"{\"kind\":\"op\"}\n",
            b"\x7fELF\x00\xff",
            b"[]",
            b"\n",
        ] {
            assert!(
                matches!(read(bytes)[..], [Err(TraceError::NotATrace(_))]),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory_without_end() {
        let head = sample();
        let line = head.iter().position(|&b| b == b'\n').unwrap() + 1;
        let endless = io::repeat(b'x').take(3 * LINE_BYTES as u64);
        let tail = &b"\n"[..];
        let mut reader = Reader::new((&head[..line]).chain(endless).chain(tail));
        assert!(matches!(reader.next(), Some(Ok(Item::Event(1, _)))));
        assert!(matches!(
            reader.next(),
            Some(Err(TraceError::Line { line: 2, .. }))
        ));
        assert!(reader.bytes.capacity() <= 2 * LINE_BYTES);
        assert!(matches!(
            reader.next(),
            Some(Ok(Item::End(Ending::NoFooter)))
        ));
        assert!(reader.next().is_none());
    }

    #[test]
    fn following_waits_for_the_footer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let bytes = sample();
        let half = bytes.len() / 2;
        std::fs::write(&path, &bytes[..half]).unwrap();
        let reader = Reader::open(&path).unwrap().follow();
        let rest = thread::spawn(move || {
            thread::sleep(2 * POLL);
            let mut file = File::options().append(true).open(&path).unwrap();
            io::Write::write_all(&mut file, &bytes[half..]).unwrap();
        });
        let items: Vec<Item> = reader.map(Result::unwrap).collect();
        assert_eq!(items.len(), 5);
        assert_eq!(items[4], Item::End(Ending::Footer));
        rest.join().unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            read(&bytes);
            let mut behind = sample();
            behind.truncate(behind.len() / 2);
            behind.extend_from_slice(&bytes);
            read(&behind);
        }

        #[test]
        fn no_flipped_byte_makes_the_reader_panic(at in 0usize..500, byte in any::<u8>()) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] = byte;
            read(&bytes);
        }
    }
}
