//! The attributes that a file shows while SOURCE lags behind: size, times and blocks are those that a
//! native file would have, before, during and after writeback.
//!
//! A time that is *kept* here stands for what SOURCE shows. Writing back moves SOURCE's times, which
//! nobody is to see: the modification time is set back, and of the status-change time, which cannot be
//! set, it is remembered what SOURCE showed right after. As long as it still shows that, the kept time
//! is the true one; as soon as it shows another, somebody else has changed the file.

/// Seconds since the epoch and nanoseconds.
pub type Time = (i64, u32);

/// SOURCE's attributes, as stat(2) shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    /// Last modification.
    pub mtime: Time,
    /// Last status change.
    pub ctime: Time,
}

/// Whether SOURCE is as it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Nobody else has changed it.
    Same,
    /// Only its status-change time is another: its attributes were changed, or its data in a way that hides it.
    Touched,
    /// Its size or modification time is another: its data was changed.
    Changed,
}

/// A time that stands for SOURCE's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    time: Time,
    /// What SOURCE shows in its place since it was last written back.
    below: Option<Time>,
}

/// One file's attributes as far as they are not SOURCE's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    seen: Option<Facts>,
    mtime: Option<Kept>,
    ctime: Option<Kept>,
    /// The latest status change that somebody was shown since the last write.
    shown: Option<Time>,
    /// Written to since the writeback under way began.
    pending: bool,
    writing: bool,
}

impl Attrs {
    /// What somebody was shown that is not before `now`, by a clock that ticks slowly: a write now needs a finer time
    /// (Documentation/filesystems/multigrain-ts.rst) to be seen to have come after that.
    #[must_use]
    pub fn seen_later(&self, now: Time) -> Option<Time> {
        self.shown.filter(|shown| now <= *shown)
    }

    /// Somebody was shown a status change at this time.
    pub fn note_shown(&mut self, ctime: Time) {
        self.shown = self.shown.max(Some(ctime));
    }

    /// A write was buffered at `now`, or at what was shown last: times do not go back.
    pub fn wrote(&mut self, now: Time) {
        let last = self.shown.take().max(self.ctime.map(|kept| kept.time));
        let now = last.map_or(now, |last| last.max(now));
        let below = self.seen.map(|facts| facts.ctime);
        let keep = |kept: Option<Kept>, below: Option<Time>| Kept {
            time: now,
            below: kept.map_or(below, |kept| kept.below),
        };
        self.mtime = Some(keep(self.mtime, None));
        self.ctime = Some(keep(self.ctime, below));
        self.pending = true;
    }

    /// SOURCE looks like `facts` now. Tells whether that is as it was left; from here on it is.
    /// Says nothing while a writeback is under way, which moves everything.
    pub fn look(&mut self, facts: &Facts) -> Outside {
        if self.writing {
            return Outside::Same;
        }
        let outside = match self.seen {
            Some(seen) if (seen.size, seen.mtime) != (facts.size, facts.mtime) => Outside::Changed,
            Some(seen) if seen.ctime != facts.ctime => Outside::Touched,
            _ => Outside::Same,
        };
        self.seen = Some(*facts);
        outside
    }

    /// An operation of the view has changed attributes of SOURCE other than its data, to `facts`. If the
    /// data was not changed from outside at the same time, it is still as it was left.
    pub fn changed_by_us(&mut self, facts: &Facts, mtime: SetMtime) {
        if self.writing {
            // SOURCE's status-change time is the operation's or the writeback's: both are now.
            if let Some(kept) = &mut self.ctime {
                kept.time = kept.time.max(facts.ctime);
            }
            return;
        }
        if mtime == SetMtime::Set {
            self.mtime = self.pending_or_none(facts.mtime, None);
        }
        if let Some(seen) = &mut self.seen
            && seen.size == facts.size
            && (seen.mtime == facts.mtime || mtime == SetMtime::Set)
        {
            *seen = *facts;
        }
    }

    fn pending_or_none(&self, time: Time, below: Option<Time>) -> Option<Kept> {
        self.pending.then_some(Kept { time, below })
    }

    /// An operation of the view has changed the data of SOURCE itself, which looks like `facts` now.
    /// `dirty`: there are older bytes that SOURCE still lacks.
    pub fn changed_data(&mut self, facts: &Facts, dirty: bool) {
        self.seen = Some(*facts);
        let keep = |time| {
            dirty.then_some(Kept {
                time,
                below: Some(time),
            })
        };
        self.mtime = keep(facts.mtime);
        self.ctime = keep(facts.ctime);
        self.pending = dirty;
    }

    /// A writeback begins, and SOURCE looks like `facts`. What is shown now will be shown until it ends.
    pub fn begin_writeback(&mut self, facts: &Facts) {
        let (mtime, ctime) = (self.shown_mtime(facts), self.shown_ctime(facts));
        self.mtime = Some(Kept {
            time: mtime,
            below: None,
        });
        self.ctime = Some(Kept {
            time: ctime,
            below: None,
        });
        self.pending = false;
        self.writing = true;
    }

    /// The modification time that SOURCE is to show.
    #[must_use]
    pub fn mtime_to_restore(&self) -> Option<Time> {
        self.mtime.map(|kept| kept.time)
    }

    /// The writeback is over, and SOURCE looks like `facts`.
    pub fn end_writeback(&mut self, facts: &Facts) {
        self.writing = false;
        self.seen = Some(*facts);
        if let Some(kept) = &mut self.mtime {
            kept.below = Some(facts.mtime);
            if kept.time == facts.mtime && !self.pending {
                self.mtime = None;
            }
        }
        if let Some(kept) = &mut self.ctime {
            kept.below = Some(facts.ctime);
        }
    }

    /// The writeback is over, and what SOURCE looks like could not be found out.
    pub fn end_writeback_blind(&mut self) {
        self.writing = false;
        self.seen = None;
    }

    fn shown_mtime(&self, facts: &Facts) -> Time {
        match self.mtime {
            None => facts.mtime,
            Some(kept) if self.writing => kept.time,
            Some(Kept {
                time,
                below: Some(below),
            }) if below != facts.mtime && !self.pending => time.max(facts.mtime),
            Some(kept) => kept.time,
        }
    }

    fn shown_ctime(&self, facts: &Facts) -> Time {
        match self.ctime {
            None => facts.ctime,
            Some(kept) if self.writing || kept.below == Some(facts.ctime) => kept.time,
            Some(kept) => kept.time.max(facts.ctime),
        }
    }

    /// The times to show for a file that SOURCE shows like `facts`: last modification, status change.
    #[must_use]
    pub fn times(&self, facts: &Facts) -> (Time, Time) {
        (self.shown_mtime(facts), self.shown_ctime(facts))
    }

    /// What is shown that SOURCE does not say, if anything is.
    #[must_use]
    pub fn remembered(&self) -> Option<Remembered> {
        let (mtime, ctime) = (Packed::of(self.mtime), Packed::of(self.ctime));
        (mtime != Packed::NONE || ctime != Packed::NONE).then_some(Remembered { mtime, ctime })
    }
}

/// Times that stand for SOURCE's in a file of which nothing is buffered: small, because there may be one
/// for each file of a large tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    mtime: Packed,
    ctime: Packed,
}

impl From<Remembered> for Attrs {
    fn from(times: Remembered) -> Attrs {
        Attrs {
            mtime: times.mtime.kept(),
            ctime: times.ctime.kept(),
            ..Attrs::default()
        }
    }
}

/// A kept time and what is below it, nanoseconds since 1970, 0 for none. A time that does not fit (it ends
/// in 2554) is not kept: SOURCE's is shown then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed {
    time: u64,
    below: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Packed {
    const NONE: Packed = Packed { time: 0, below: 0 };

    fn of(kept: Option<Kept>) -> Packed {
        let pack = |(sec, nsec): Time| {
            let sec = u64::try_from(sec).ok()?.checked_mul(SECOND)?;
            sec.checked_add(u64::from(nsec))
        };
        let packed = kept.and_then(|kept| {
            Some(Packed {
                time: pack(kept.time)?,
                below: kept.below.map_or(Some(0), pack)?,
            })
        });
        packed.unwrap_or(Packed::NONE)
    }

    fn kept(self) -> Option<Kept> {
        let unpack = |ns: u64| {
            let sec = i64::try_from(ns / SECOND).ok()?;
            let nsec = u32::try_from(ns % SECOND).ok()?;
            (ns > 0).then_some((sec, nsec))
        };
        Some(Kept {
            time: unpack(self.time)?,
            below: unpack(self.below),
        })
    }
}

/// Whether an operation of the view set the modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMtime {
    /// It did.
    Set,
    /// It did not.
    Left,
}

/// The blocks to show for a file of `size` bytes that has `dirty` bytes in memory, and `blocks` units of
/// 512 bytes in SOURCE: those, and what the dirty bytes will need, but no more than the file is long.
/// Never 0 for a file with data (GNU tar takes such a file for one hole).
#[must_use]
pub fn blocks_shown(size: u64, blocks: u64, dirty_blocks: u64, block_size: u64) -> u64 {
    let units = block_size / 512;
    let whole = size.div_ceil(block_size) * units;
    whole.min(blocks + dirty_blocks * units).max(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(size: u64, mtime: i64, ctime: i64) -> Facts {
        Facts {
            size,
            blocks: 0,
            mtime: (mtime, 0),
            ctime: (ctime, 0),
        }
    }

    #[test]
    fn times_do_not_move_when_data_is_written_back() {
        let mut attrs = Attrs::default();
        attrs.look(&facts(0, 10, 10));
        attrs.wrote((20, 0));
        assert_eq!(attrs.times(&facts(0, 10, 10)), ((20, 0), (20, 0)));
        attrs.begin_writeback(&facts(0, 10, 10));
        assert_eq!(attrs.times(&facts(5, 30, 30)), ((20, 0), (20, 0)));
        assert_eq!(attrs.mtime_to_restore(), Some((20, 0)));
        attrs.end_writeback(&facts(5, 20, 31));
        assert_eq!(attrs.times(&facts(5, 20, 31)), ((20, 0), (20, 0)));
        // A later chmod moves the status-change time, and only that.
        attrs.changed_by_us(&facts(5, 20, 40), SetMtime::Left);
        assert_eq!(attrs.times(&facts(5, 20, 40)), ((20, 0), (40, 0)));
        assert_eq!(attrs.look(&facts(5, 20, 40)), Outside::Same);
    }

    #[test]
    fn a_time_that_was_set_survives_the_writeback_of_older_data() {
        let mut attrs = Attrs::default();
        attrs.look(&facts(0, 10, 10));
        attrs.wrote((20, 0));
        attrs.changed_by_us(&facts(0, 3, 25), SetMtime::Set);
        assert_eq!(attrs.times(&facts(0, 3, 25)), ((3, 0), (25, 0)));
        attrs.begin_writeback(&facts(0, 3, 25));
        assert_eq!(attrs.mtime_to_restore(), Some((3, 0)));
        attrs.end_writeback(&facts(5, 3, 31));
        assert_eq!(attrs.times(&facts(5, 3, 31)), ((3, 0), (25, 0)));
    }

    #[test]
    fn a_write_during_the_writeback_shows_its_own_time() {
        let mut attrs = Attrs::default();
        attrs.wrote((20, 0));
        attrs.begin_writeback(&facts(0, 10, 10));
        attrs.wrote((29, 0));
        attrs.end_writeback(&facts(5, 20, 30));
        assert_eq!(attrs.times(&facts(5, 20, 30)), ((29, 0), (29, 0)));
    }

    #[test]
    fn changes_from_outside_are_noticed_and_shown() {
        let mut attrs = Attrs::default();
        attrs.look(&facts(5, 10, 10));
        assert_eq!(attrs.look(&facts(5, 10, 10)), Outside::Same);
        assert_eq!(attrs.look(&facts(5, 11, 11)), Outside::Changed);
        assert_eq!(attrs.look(&facts(5, 11, 12)), Outside::Touched);
        assert_eq!(attrs.look(&facts(5, 11, 12)), Outside::Same);
        attrs.wrote((20, 0));
        assert_eq!(attrs.look(&facts(9, 15, 15)), Outside::Changed);
    }

    #[test]
    fn what_is_remembered_shows_the_same_times() {
        let mut attrs = Attrs::default();
        assert_eq!(attrs.remembered(), None);
        attrs.look(&facts(0, 10, 10));
        attrs.wrote((20, 7));
        attrs.begin_writeback(&facts(0, 10, 10));
        attrs.end_writeback(&facts(5, 30, 31));
        let times = Attrs::from(attrs.remembered().unwrap());
        // As it was left, and after somebody else was there.
        for facts in [facts(5, 30, 31), facts(5, 30, 40), facts(6, 50, 50)] {
            assert_eq!(times.times(&facts), attrs.times(&facts));
        }
        assert_eq!(Attrs::from(times.remembered().unwrap()), times);
        attrs.ctime = None;
        attrs.mtime = Some(Kept {
            time: (-1, 0),
            below: None,
        });
        assert_eq!(attrs.remembered(), None, "a time before 1970 does not fit");
    }

    #[test]
    fn a_file_with_data_has_blocks_and_an_overwritten_one_no_more_than_it_is_long() {
        assert_eq!(blocks_shown(1, 0, 1, 4096), 8);
        assert_eq!(blocks_shown(8192, 16, 2, 4096), 16);
        assert_eq!(blocks_shown(1 << 40, 0, 1, 4096), 8);
        assert_eq!(blocks_shown(100, 64, 0, 4096), 64);
    }
}
