//! A backing that fails by plan: the double for tests of what a buffer does when SOURCE does not do
//! its part.
//!
//! Layer: effect. The plan is a list of rules, which can be added to and emptied while calls are
//! running. It is deterministic: which calls fail depends on their order alone, also where chance is
//! asked for (the seed is the caller's).

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Backing, total};
use crate::error::Errno;
use crate::sys::{Space, Stat, SyncKind, SysResult, TimeSet, Written};
use crate::types::OwnFd;

/// The calls of [`Backing`], as a rule names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Backing::read_at`].
    Read,
    /// [`Backing::write_at`].
    Write,
    /// [`Backing::set_size`].
    SetSize,
    /// [`Backing::sync`].
    Sync,
    /// [`Backing::stat`].
    Stat,
    /// [`Backing::set_mtime`].
    SetMtime,
    /// [`Backing::space`].
    Space,
    /// [`Backing::quota_left`].
    Quota,
}

/// Which of the calls a rule is for. Each rule counts the calls of its kind from 1, from when it was
/// added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All.
    Always,
    /// The nth alone.
    Nth(u64),
    /// The nth and all that follow.
    From(u64),
    /// So many of a thousand, spread by chance.
    Chance {
        /// 0 is never, 1000 always.
        per_mille: u16,
        /// The same seed picks the same calls.
        seed: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Fail(Errno),
    /// Only of writes.
    Short(u64, Errno),
    Delay(Duration),
}

#[derive(Debug)]
struct Rule {
    call: Call,
    when: When,
    fault: Fault,
    /// Calls counted so far.
    seen: u64,
}

/// A backing and what goes wrong with it. Where more than one rule is for a call, it has the delays of
/// all, and the failure of the one that was added first.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    rules: Mutex<Vec<Rule>>,
}

impl<B> Faulty<B> {
    /// A backing that works, until a rule says otherwise.
    #[must_use]
    pub fn new(inner: B) -> Faulty<B> {
        Faulty {
            inner,
            rules: Mutex::new(Vec::new()),
        }
    }

    /// What it wraps, which never fails by plan.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// From now on, these calls fail and do nothing.
    pub fn fail(&self, call: Call, when: When, error: Errno) {
        self.add(call, when, Fault::Fail(error));
    }

    /// From now on, these writes stop with `error` after `bytes` bytes. One that is no longer than
    /// that is complete and without an error.
    pub fn cut_writes(&self, when: When, bytes: u64, error: Errno) {
        self.add(Call::Write, when, Fault::Short(bytes, error));
    }

    /// From now on, these calls are made only after a time.
    pub fn delay(&self, call: Call, when: When, time: Duration) {
        self.add(call, when, Fault::Delay(time));
    }

    /// From now on, nothing goes wrong: the rules are gone. A call that is waiting out its delay still
    /// does as it was to.
    pub fn heal(&self) {
        self.rules().clear();
    }

    fn add(&self, call: Call, when: When, fault: Fault) {
        self.rules().push(Rule {
            call,
            when,
            fault,
            seen: 0,
        });
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as the call is to be delayed, and tells what goes wrong with it: how many bytes
    /// of it are done nevertheless, and the error.
    fn meet(&self, call: Call) -> Result<(), (u64, Errno)> {
        let (mut delay, mut failure) = (Duration::ZERO, Ok(()));
        for rule in self.rules().iter_mut().filter(|rule| rule.call == call) {
            rule.seen += 1;
            if !rule.when.is_for(rule.seen) {
                continue;
            }
            match rule.fault {
                Fault::Delay(time) => delay += time,
                Fault::Fail(error) => failure = failure.and(Err((0, error))),
                Fault::Short(bytes, error) => failure = failure.and(Err((bytes, error))),
            }
        }
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        failure
    }

    fn pass(&self, call: Call) -> SysResult<()> {
        self.meet(call).map_err(|(_, error)| error)
    }
}

impl When {
    fn is_for(self, nth: u64) -> bool {
        match self {
            When::Always => true,
            When::Nth(n) => nth == n,
            When::From(n) => nth >= n,
            When::Chance { per_mille, seed } => mix(seed, nth) % 1000 < u64::from(per_mille),
        }
    }
}

/// The nth number of the sequence of this seed: splitmix64 (Steele, Lea, Flood: Fast Splittable
/// Pseudorandom Number Generators, 2014), which needs no state but n.
fn mix(seed: u64, nth: u64) -> u64 {
    let z = seed.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The first `bytes` bytes of a list of buffers.
fn first<'a>(bufs: &'a [IoSlice<'_>], bytes: u64) -> Vec<IoSlice<'a>> {
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    for buf in bufs {
        let here = buf.len().min(left);
        found.push(IoSlice::new(&buf[..here]));
        left -= here;
    }
    found
}

impl<B: Backing> Backing for Faulty<B> {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], at: u64) -> SysResult<usize> {
        self.pass(Call::Read)?;
        self.inner.read_at(bufs, at)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], at: u64, sync: SyncKind) -> Written {
        match self.meet(Call::Write) {
            Ok(()) => self.inner.write_at(bufs, at, sync),
            Err((0, error)) => Written::failed(error),
            Err((bytes, _)) if bytes >= total(bufs) => self.inner.write_at(bufs, at, sync),
            Err((bytes, error)) => {
                let written = self.inner.write_at(&first(bufs, bytes), at, sync);
                Written {
                    error: written.error.or(Some(error)),
                    ..written
                }
            }
        }
    }

    fn set_size(&self, size: u64) -> SysResult<()> {
        self.pass(Call::SetSize)?;
        self.inner.set_size(size)
    }

    fn sync(&self, kind: SyncKind) -> SysResult<()> {
        self.pass(Call::Sync)?;
        self.inner.sync(kind)
    }

    fn stat(&self) -> SysResult<Stat> {
        self.pass(Call::Stat)?;
        self.inner.stat()
    }

    fn own_fd(&self) -> Option<OwnFd> {
        self.inner.own_fd()
    }

    fn set_mtime(&self, mtime: TimeSet) -> SysResult<()> {
        self.pass(Call::SetMtime)?;
        self.inner.set_mtime(mtime)
    }

    fn space(&self) -> SysResult<Space> {
        self.pass(Call::Space)?;
        self.inner.space()
    }

    fn quota_left(&self) -> SysResult<Option<u64>> {
        self.pass(Call::Quota)?;
        self.inner.quota_left()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::super::{Counted, Memory};
    use super::*;

    fn write(file: &dyn Backing, bytes: &[u8]) -> Written {
        let (one, two) = bytes.split_at(bytes.len() / 2);
        file.write_at(&[IoSlice::new(one), IoSlice::new(two)], 0, SyncKind::None)
    }

    #[test]
    fn without_a_rule_nothing_goes_wrong() {
        let file = Faulty::new(Memory::new());
        assert_eq!(write(&file, b"abcd"), Written::all(4));
        assert_eq!(file.inner().contents(), b"abcd");
    }

    #[test]
    fn the_nth_call_from_the_rule_on_fails_alone_and_does_nothing() {
        let file = Faulty::new(Memory::new());
        assert_eq!(write(&file, b"a"), Written::all(1));
        file.fail(Call::Write, When::Nth(2), Errno::EIO);
        assert_eq!(write(&file, b"b"), Written::all(1));
        file.set_size(1).unwrap();
        assert_eq!(write(&file, b"c"), Written::failed(Errno::EIO));
        assert_eq!(file.inner().contents(), b"b");
        assert_eq!(write(&file, b"d"), Written::all(1));
    }

    #[test]
    fn a_file_that_is_full_from_some_write_on_can_be_healed() {
        let file = Faulty::new(Memory::new());
        file.fail(Call::Write, When::From(2), Errno::ENOSPC);
        assert_eq!(write(&file, b"a"), Written::all(1));
        for _ in 0..3 {
            assert_eq!(write(&file, b"b"), Written::failed(Errno::ENOSPC));
        }
        file.heal();
        assert_eq!(write(&file, b"b"), Written::all(1));
    }

    #[test]
    fn every_kind_of_call_can_fail() {
        let counted = Arc::new(Counted::new(Memory::holding(b"abc")));
        let file = Faulty::new(Arc::clone(&counted));
        for (call, error) in [
            (Call::Read, Errno::EIO),
            (Call::Write, Errno::ENOSPC),
            (Call::SetSize, Errno::EFBIG),
            (Call::Sync, Errno::EDQUOT),
            (Call::Stat, Errno::ESTALE),
            (Call::SetMtime, Errno::EPERM),
            (Call::Space, Errno::ENOSYS),
            (Call::Quota, Errno::EIO),
        ] {
            file.fail(call, When::Always, error);
        }
        let read = file.read_at(&mut [IoSliceMut::new(&mut [0; 3])], 0);
        assert_eq!(read, Err(Errno::EIO));
        assert_eq!(write(&file, b"x"), Written::failed(Errno::ENOSPC));
        assert_eq!(file.set_size(0), Err(Errno::EFBIG));
        assert_eq!(file.sync(SyncKind::Data), Err(Errno::EDQUOT));
        assert_eq!(file.stat(), Err(Errno::ESTALE));
        assert_eq!(file.set_mtime(TimeSet::At(0, 0)), Err(Errno::EPERM));
        assert_eq!(file.space(), Err(Errno::ENOSYS));
        assert_eq!(file.quota_left(), Err(Errno::EIO));
        assert_eq!(counted.counts(), Counted::new(()).counts());
    }

    #[test]
    fn a_write_can_be_cut_inside_any_of_its_buffers() {
        for (cut, expected) in [
            (0, ""),
            (1, "a"),
            (2, "ab"),
            (3, "abc"),
            (4, "abcd"),
            (5, "abcde"),
        ] {
            let file = Faulty::new(Memory::new());
            file.cut_writes(When::Nth(1), cut, Errno::ENOSPC);
            let written = write(&file, b"abcdef");
            assert_eq!((written.bytes, written.error), (cut, Some(Errno::ENOSPC)));
            assert_eq!(file.inner().contents(), expected.as_bytes());
        }
        let file = Faulty::new(Memory::new());
        file.cut_writes(When::Always, 6, Errno::ENOSPC);
        assert_eq!(write(&file, b"abcdef"), Written::all(6));
    }

    #[test]
    fn chance_is_about_as_often_as_asked_and_the_same_for_the_same_seed() {
        let failed = |seed, per_mille| {
            let file = Faulty::new(Memory::new());
            file.fail(Call::Sync, When::Chance { per_mille, seed }, Errno::EIO);
            let results = (0..2_000).map(|_| file.sync(SyncKind::All).is_err());
            results.collect::<Vec<_>>()
        };
        let often = failed(1, 250).into_iter().filter(|failed| *failed).count();
        assert!((400..600).contains(&often), "{often} of 2000");
        assert_eq!(failed(1, 250), failed(1, 250));
        assert_ne!(failed(1, 250), failed(2, 250));
        assert!(failed(3, 0).into_iter().all(|failed| !failed));
        assert!(failed(3, 1000).into_iter().all(|failed| failed));
    }

    #[test]
    fn a_delayed_call_is_late_and_may_fail_too() {
        let file = Faulty::new(Memory::new());
        let time = Duration::from_millis(5);
        file.delay(Call::Sync, When::Always, time);
        file.fail(Call::Sync, When::Always, Errno::EIO);
        file.fail(Call::Sync, When::Always, Errno::ENOSPC);
        let start = Instant::now();
        assert_eq!(file.sync(SyncKind::All), Err(Errno::EIO));
        assert!(start.elapsed() >= time);
    }
}
