//! Whatever claims to be a trace, read by all that reads traces. Shared by the fuzz target and `tests/readers.rs`.

use iolens::analysis::audit::{Audit, Verdict};
use iolens::analysis::report::Reporter;
use iolens::analysis::story::{About, Teller};
use iolens::render::escape::printable_line;
use iolens::render::report::{brief, render};
use iolens::render::story;
use iolens::render::table::{Layout, Style};
use iolens::render::text::Text;
use iolens::trace::reader::{Item, Reader, TraceError};
use iolens::types::Fh;

/// What `tests/readers.rs` tries to have printed on a line of its own. A fuzzer hardly spells it.
pub const FORGED: &str = "a line that nobody should print";

/// Reads it as log, report, audit and story do. None may panic, and none may print what a terminal obeys.
pub fn read_in_every_way(trace: &[u8]) {
    let (mut audit, mut damaged) = (Audit::default(), 0);
    let mut reporter = Reporter::default();
    let mut of_path = Teller::new(About::Path("notes.txt".to_owned()), Vec::new());
    let mut of_open = Teller::new(About::Open(Fh(1)), Vec::new());
    let (mut text, mut shown) = (Text::utc(), Vec::new());
    for item in Reader::new(trace) {
        match item {
            Ok(Item::Event(line, event)) => {
                text.write(&event, &mut shown);
                audit.push(line, &event);
                of_path.push(event.clone());
                of_open.push(event.clone());
                reporter.push(event);
            }
            Ok(Item::End(_)) => {}
            Err(error) => {
                damaged += u64::from(matches!(error, TraceError::Line { .. }));
                obeyed_by_no_terminal("an error", &printable_line(&error.to_string()));
            }
        }
    }
    let shown = std::str::from_utf8(&shown).expect("log prints UTF-8");
    obeyed_by_no_terminal("log", shown);
    for law in audit.finish(damaged).laws {
        if let Verdict::Broken { evidence, .. } = law.verdict {
            for one in evidence {
                obeyed_by_no_terminal("audit", &one.to_string());
            }
        }
    }
    obeyed_by_no_terminal("story", &story::render(&of_path.finish()));
    obeyed_by_no_terminal("story", &story::render(&of_open.finish()));
    let report = reporter.finish();
    for width in [1, 40, 200] {
        let style = Style::Plain;
        let layout = Layout { width, style };
        obeyed_by_no_terminal("report", &render(&report, layout, 3));
        obeyed_by_no_terminal("run", &brief(&report, layout, 3));
    }
    serde_json::to_string(&report).expect("every report has a JSON form");
}

fn obeyed_by_no_terminal(who: &str, said: &str) {
    let obeyed = said
        .char_indices()
        .find(|(_, c)| c.is_control() && *c != '\n');
    if let Some((at, c)) = obeyed {
        let around: String = said[..at].chars().rev().take(100).collect();
        let around: String = around.chars().rev().collect();
        panic!("{who} prints {c:?} behind: {around}");
    }
    // Only `tests/readers.rs` puts this behind the end of a line, where there should be a word.
    let forged = said.lines().find(|line| line.trim_start() == FORGED);
    assert_eq!(forged, None, "{who} prints a line that it should not");
}
