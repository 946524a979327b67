//! Figures in lines: what was read and written, and what the buffer did.

use super::super::escape::push;
use super::super::table::{Layout, bytes, time};
use super::{many, wrap};
use crate::analysis::report::{Cache, Figures, Sizes};

pub(super) fn flows(all: &Figures, layout: Layout, out: &mut String) {
    for (name, flow) in [("reads", &all.reads), ("writes", &all.writes)] {
        if flow.calls == 0 {
            continue;
        }
        let calls = flow.by_syscall.iter();
        let calls: Vec<String> = calls
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        let text = format!(
            "{name}: {}; {} on average, {}% one behind the other, {}% forwards, {}% at a multiple of 4 KiB",
            calls.join(", "),
            bytes(flow.mean()),
            percent(flow.consec, flow.calls),
            percent(flow.seq, flow.calls),
            percent(flow.aligned, flow.calls),
        );
        out.push('\n');
        wrap(&text, layout.width, out);
        sizes(&flow.sizes, layout, out);
    }
    let mut rest = Vec::new();
    let mut some = |count: u64, what: &str| {
        if count > 0 {
            rest.push(many(count, what));
        }
    };
    some(all.seeks, "seek");
    some(all.fsyncs, "fsync");
    some(all.truncations, "truncation");
    some(all.mapped_reads, "read for mappings or the page cache");
    some(all.mapped_writes, "page of mappings written");
    for (errno, count) in &all.errors {
        rest.push(format!("{count} x {errno}"));
    }
    if !rest.is_empty() {
        wrap(&format!("also: {}", rest.join(", ")), layout.width, out);
    }
    let times = [50, 95, 99].map(|rank| time(all.time.percentile(rank).0));
    let text = format!(
        "time in operations: {}; half took at most {}, 95% {}, 99% {}",
        time(all.time.sum().0),
        times[0],
        times[1],
        times[2]
    );
    wrap(&text, layout.width, out);
    if all.unsynced_bytes > 0 {
        let text = format!(
            "never synced: {}, which a power cut soon after may take",
            bytes(all.unsynced_bytes)
        );
        wrap(&text, layout.width, out);
    }
}

fn sizes(sizes: &Sizes, layout: Layout, out: &mut String) {
    let room = layout.width.saturating_sub(24).clamp(5, 30) as u64;
    let most = sizes.0.iter().copied().max().unwrap_or(0);
    for (name, count) in sizes.some() {
        let name = name.replace("_PLUS", "+").replace('_', "-");
        let bar = usize::try_from(u128::from(count) * u128::from(room) / u128::from(most.max(1)))
            .unwrap_or(0);
        let bar = "#".repeat(bar.max(1));
        push(out, format_args!("  {name:>9} {count:>10} {bar}\n"));
    }
}

pub(super) fn cache(cache: &Cache, layout: Layout, out: &mut String) {
    let past = cache.miss.saturating_add(cache.bypass);
    let read = cache.hit.saturating_add(past);
    if read > 0 {
        let share = percent(cache.hit, read);
        let parts = [
            (cache.hit, format!("from the buffer ({share}%)")),
            (cache.hit_dirty, "of it not yet written back".to_owned()),
            (cache.hit_readahead, "of it read ahead".to_owned()),
            (past, "from the directory".to_owned()),
            (cache.readahead, "fetched ahead".to_owned()),
            (cache.readahead_wasted, "of that never read".to_owned()),
        ];
        line("read", &parts, layout, out);
    }
    if cache.buffered > 0 || cache.write_through > 0 {
        let parts = [
            (cache.buffered, "into the buffer".to_owned()),
            (
                cache.overwrote,
                "of it over bytes that had not left yet".to_owned(),
            ),
            (cache.discarded, "died there".to_owned()),
            (cache.write_through, "past it".to_owned()),
            (cache.peak_dirty, "dirty at most at one time".to_owned()),
        ];
        line("written", &parts, layout, out);
    }
    if cache.writebacks > 0 {
        writebacks(cache, layout, out);
    }
    if cache.waited_ns > 0 {
        let text = format!("writers were held back for {}", time(cache.waited_ns));
        wrap(&text, layout.width, out);
    }
}

/// How what was buffered reached SOURCE, and when.
fn writebacks(cache: &Cache, layout: Layout, out: &mut String) {
    let each = cache.merged.div_ceil(cache.writebacks);
    let mut text = format!(
        "left the buffer: {} in {}, each of {} of the program's, half within {}",
        bytes(cache.written_back),
        many(cache.writebacks, "write"),
        many(each, "write"),
        time(cache.to_writeback.percentile(50).0),
    );
    if let Some(ratio) = cache.write_amplification {
        push(
            &mut text,
            format_args!("; {ratio:.2} bytes for each that was written"),
        );
    }
    if cache.to_sync.count() > 0 {
        let synced = time(cache.to_sync.percentile(50).0);
        push(&mut text, format_args!("; synced, half within {synced}"));
    }
    wrap(&text, layout.width, out);
}

/// `the program's 2 writes reached the directory in 1`
pub(super) fn left_the_buffer(all: &Figures, layout: Layout, out: &mut String) {
    let cache = &all.cache;
    let mut text = format!(
        "its {} of {}",
        many(all.writes.calls, "write"),
        bytes(all.writes.bytes)
    );
    match (cache.writebacks, cache.write_through) {
        (0, 0) => text.push_str(" have not left the buffer"),
        (0, _) => text.push_str(" went to the directory at once"),
        (count, 0) => push(&mut text, format_args!(" reached the directory in {count}")),
        (count, past) => push(
            &mut text,
            format_args!(
                " reached the directory in {count}, and {} at once",
                bytes(past)
            ),
        ),
    }
    if cache.discarded > 0 {
        push(
            &mut text,
            format_args!("; {} died in the buffer", bytes(cache.discarded)),
        );
    }
    match all.unsynced_bytes {
        0 => {}
        unsynced => push(
            &mut text,
            format_args!("; {} were never synced", bytes(unsynced)),
        ),
    }
    wrap(&text, layout.width, out);
}

/// `read: 10.1 KiB from the buffer, 4.0 KiB from the directory`
fn line(title: &str, parts: &[(u64, String)], layout: Layout, out: &mut String) {
    let some = parts.iter().filter(|(count, _)| *count > 0);
    let texts: Vec<String> = some
        .map(|(count, what)| format!("{} {what}", bytes(*count)))
        .collect();
    wrap(&format!("{title}: {}", texts.join(", ")), layout.width, out);
}

fn percent(part: u64, whole: u64) -> u64 {
    (u128::from(part) * 100)
        .checked_div(u128::from(whole))
        .and_then(|p| u64::try_from(p).ok())
        .unwrap_or(0)
}
